"""A student that computes as its int8 file will: folded, rounded by the rules, trainable."""

from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from training.methods.method import Outputs
from training.quantization.operators import Operator
from training.quantization.qdq_rules import GRIDS, Kind, placement
from training.quantization.rounding import (
    RoundedActivation,
    representable,
    rounded_bias,
    rounded_weights,
    weight_steps,
)
from training.quantization.traced_student import TracedStudent, trace

_KEPT = 0.9999  # of the values of a batch lie within the range that learning starts from
_SAMPLES = 1 << 16  # values of one tensor of a batch that are looked at for it
# An optimizer that moves every parameter by about its rate moves a step by this times its rate.
_SPEED = 10.0


class QuantizedStudent(nn.Module):
    """Normalised images float32 (N, 3, S, S) to logits (N, K), through simulated int8 numbers.

    BatchNorm is folded with its frozen statistics and factors before the weights are rounded; its
    shifts learn as the biases of the convolutions. The state dict holds the student's own keys
    behind "student.", and the steps of the activations.
    """

    def __init__(self, student: nn.Module, kind: Kind, *, arch: str) -> None:
        """Takes `student` over, and changes its weights in training.

        Raises:
            UserError: int8 cannot be trained through this student.
        """
        super().__init__()
        self.student = student.eval()
        self.kind = kind
        self._grid = GRIDS[kind]
        self._traced = trace(student, arch=arch)
        self._placement = placement(kind, list(self._traced.operators.values()))
        count = len(self._placement.tensors)
        self._index = {name: index for index, name in enumerate(self._placement.tensors)}
        ceilings = [self._traced.ceilings.get(name, np.inf) for name in self._index]
        self.register_buffer("ceilings", torch.tensor(ceilings), persistent=False)
        self.register_buffer("first_steps", torch.ones(count))
        self.register_buffer("zero_points", torch.zeros(count))
        self.growth = nn.Parameter(torch.zeros(count))
        self._observed: dict[str, list[tuple[float, float]]] | None = None
        for name in self._traced.norms.values():
            weight = student.get_parameter(f"{name}.weight")
            weight.requires_grad = False

    def train(self, mode: bool = True) -> "QuantizedStudent":
        """Notes the mode; the student itself stays in evaluation mode."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The logits (N, K)."""
        return self.outputs(images).logits

    def outputs(self, images: Tensor, features: Mapping[str, str] | None = None) -> Outputs:
        """The logits, and the outputs of the modules that `features` names, by its keys."""
        # In bfloat16, an integer times its step would be rounded once more.
        with torch.autocast(images.device.type, enabled=False):
            run = _Run(self, features or {})
            logits = run.run(images.float())
        return Outputs(logits, run.features)

    def observe(self, images: Tensor) -> None:
        """Sets the steps from which learning starts, by normalised images float32 (N, 3, S, S)."""
        self._observed = {}
        with torch.no_grad():
            for batch in torch.split(images, 64):
                self(batch)
        for name, found in self._observed.items():
            low, high = (float(np.mean(side)) for side in zip(*found, strict=True))
            self._start(self._index[name], low, high)
        self._observed = None

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The lowest and the highest value of each rounded activation, by its name.

        Activations whose values were only moved have the range of what was moved.
        """
        steps = [float(step) for step in self._steps().detach()]
        levels, zeros = self._grid.activation_levels, self.get_buffer("zero_points").tolist()
        if self._grid.signed:
            return {
                name: (-levels * steps[i], levels * steps[i]) for name, i in self._index.items()
            }
        found = {
            name: (-zeros[i] * steps[i], (levels - zeros[i]) * steps[i])
            for name, i in self._index.items()
        }
        return found | {name: found[owner] for name, owner in self._placement.moved.items()}

    @property
    def traced(self) -> TracedStudent:
        """The student's graph."""
        return self._traced

    def rounded(self, name: str, value: Tensor, steps: Tensor) -> Tensor:
        """The activation of that name on its grid; `steps` are those of all activations."""
        if name not in self._index:  # its values were moved, and are on a grid
            return value
        if self._observed is not None:
            self._observed.setdefault(name, []).append(_range_of(value))
            return value
        index, grid = self._index[name], self._grid
        result: Tensor = RoundedActivation.apply(
            value,
            steps[index],
            self.get_buffer("zero_points")[index],
            grid.lowest,
            grid.lowest + 255,
        )
        return result

    def folded(
        self, operator: Operator, module: nn.Conv2d | nn.Linear, steps: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The weights and the bias of a layer with its BatchNorm in them, rounded.

        `steps` are those of all activations: where a bias is an integer, its step is the product of
        those of the layer's input and weights.
        """
        name = operator.name
        weight, bias = module.weight, module.bias
        if name in self._traced.norms:
            norm = self.student.get_submodule(self._traced.norms[name])
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None
            assert norm.running_mean is not None
            factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
            weight = weight * factor.view(-1, 1, 1, 1)
            mean = norm.running_mean if bias is None else norm.running_mean - bias
            bias = norm.bias - mean * factor
        if name in self._placement.weights and self._observed is None:
            if not self._grid.signed and bias is not None:
                source = operator.inputs[0]
                of_input = steps[self._index[self._placement.moved.get(source, source)]]
                bias = rounded_bias(bias, of_input.detach() * weight_steps(weight, self._grid))
            weight = rounded_weights(weight, self._grid)
        return weight, bias

    def is_rounded(self, operator: str, index: int) -> bool:
        """Whether an operator's input of that number is a rounded tensor."""
        return (operator, index) in self._placement.reads

    def _steps(self) -> Tensor:
        steps = self.get_buffer("first_steps") * torch.exp(_SPEED * self.growth)
        if not self._grid.signed:
            # The clip of a ReLU6 is done by the end of the range, which must not lie beyond it.
            steps = torch.minimum(steps, self.get_buffer("ceilings") / self._grid.activation_levels)
        return representable(steps, self._grid)

    def _start(self, index: int, low: float, high: float) -> None:
        levels = self._grid.activation_levels
        if self._grid.signed:
            step, zero = max(-low, high) / levels, 0.0
        else:
            step = (high - low) / levels
            zero = round(-low / step) if step else 0.0
        self.get_buffer("first_steps")[index] = max(step, float(np.finfo(np.float16).tiny))
        self.get_buffer("zero_points")[index] = zero


class _Run(fx.Interpreter):
    """One pass over a batch of images."""

    def __init__(self, quantized: QuantizedStudent, features: Mapping[str, str]) -> None:
        super().__init__(quantized.student, graph=quantized.traced.graph)
        self._quantized = quantized
        self._steps = quantized._steps()  # the same for the whole pass
        self._rounded: dict[str, Tensor] = {}
        self._keep = {quantized.traced.ends[module]: key for key, module in features.items()}
        self.features: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        traced = self._quantized.traced
        if n in traced.folded:
            value = args[0]
        elif n in traced.operators:
            value = self._operator(n, args, kwargs)
        else:
            value = super().run_node(n)
        if n in self._keep:
            self.features[self._keep[n]] = value
        return value

    def _operator(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = self._quantized.traced.operators[node]
        numbers = iter(range(len(operator.inputs)))

        def read(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(read(item) for item in value)
            if not isinstance(value, Tensor):
                return value
            index = next(numbers)
            if not self._quantized.is_rounded(operator.name, index):
                return value
            name = operator.inputs[index]
            if name not in self._rounded:
                self._rounded[name] = self._quantized.rounded(name, value, self._steps)
            return self._rounded[name]

        args = read(args)
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            weight, bias = self._quantized.folded(operator, module, self._steps)
            return F.conv2d(
                args[0],
                weight,
                bias,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
            )
        if isinstance(module, nn.Linear):
            return F.linear(args[0], *self._quantized.folded(operator, module, self._steps))
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            # Not in place: the tensor before it may be read again.
            return F.relu6(args[0]) if isinstance(module, nn.ReLU6) else F.relu(args[0])
        return getattr(self, node.op)(node.target, args, kwargs)


def _range_of(value: Tensor) -> tuple[float, float]:
    """The range that all but one value in 10,000 lie in; it contains zero."""
    flat, each = value.detach().flatten(), value[0].numel()
    stride = max(1, flat.numel() // _SAMPLES)
    # A stride that shares a factor with an image would take the same pixels or channels of each.
    while gcd(stride, each) > 1:
        stride += 1
    flat = flat[::stride].float()
    low, high = torch.quantile(flat, torch.tensor([1 - _KEPT, _KEPT], device=flat.device)).tolist()
    return min(low, 0.0), max(high, 0.0)
