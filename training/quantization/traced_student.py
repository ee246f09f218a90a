"""A student as a graph of operators, found by running it with symbols (torch.fx).

Additions, concatenations and channel shuffles are no modules: only the graph shows where their
results would be rounded.
"""

import operator as python_operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.quantization.operators import INPUT, Operator, OperatorList

# What each module, function and method of torch is called in ONNX. "" leaves its input as it is.
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "Conv",
    nn.Linear: "Gemm",
    nn.ReLU: "Relu",
    nn.ReLU6: "Clip",
    nn.MaxPool2d: "MaxPool",
    nn.AvgPool2d: "AveragePool",
    nn.AdaptiveAvgPool2d: "ReduceMean",
    nn.Dropout: "",
    nn.Identity: "",
}
_FUNCTIONS: dict[Callable[..., Any], str] = {
    python_operator.add: "Add",
    python_operator.iadd: "Add",
    torch.add: "Add",
    torch.cat: "Concat",
    torch.flatten: "Reshape",
    torch.transpose: "Transpose",
    F.relu: "Relu",
    F.relu6: "Clip",
    F.adaptive_avg_pool2d: "ReduceMean",
}
_METHODS = {
    "view": "Reshape",
    "reshape": "Reshape",
    "flatten": "Reshape",
    "transpose": "Transpose",
    "permute": "Transpose",
    "chunk": "Split",
    "mean": "ReduceMean",
    "contiguous": "",
}
_HALVES = 2  # a channel shuffle splits into so many parts


@dataclass
class TracedStudent:
    """A student's graph in evaluation mode.

    Attributes:
        graph: torch's nodes, in the order in which they run.
        operators: the operator of each node that is one.
        norms: the BatchNorm that is folded into each convolution, both as names of modules.
        folded: the nodes of those BatchNorms, and of other modules that pass their input on.
        ends: the node that gives the output of each module, by the module's name.
        ceilings: the largest value of each tensor that an activation bounds, by the tensor's name.
    """

    graph: fx.Graph
    operators: dict[fx.Node, Operator] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    folded: set[fx.Node] = field(default_factory=set)
    ends: dict[str, fx.Node] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)


def trace(student: nn.Module, *, arch: str) -> TracedStudent:
    """The graph of a student; `arch` names it in errors.

    Raises:
        UserError: it has something that int8 cannot be trained through.
    """
    tracer = _Tracer()
    graph = tracer.trace(student)
    traced = TracedStudent(graph, ends=tracer.ends)
    _Names(student, traced, arch).visit()
    return traced


class _Tracer(fx.Tracer):
    """Notes which node gives the output of each module."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, fx.Node] = {}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.ends[self.path_of_module(m)] = result.node
        return result


class _Names:
    """Gives every tensor of a graph its name, node by node."""

    def __init__(self, student: nn.Module, traced: TracedStudent, arch: str) -> None:
        self._student = student
        self._traced = traced
        self._arch = arch
        self._list = OperatorList()
        self._names: dict[fx.Node, tuple[str, ...]] = {}
        self._made: dict[str, fx.Node] = {}

    def visit(self) -> None:
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._names[node] = (INPUT,)
            elif node.op != "output":
                self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        inputs = [name for source in node.all_input_nodes for name in self._names.get(source, ())]
        module = self._module(node)
        if not inputs:  # sizes, and what is computed of them
            return
        if node.target is python_operator.getitem:
            self._names[node] = (inputs[int(node.args[1])],)  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d):
            self._fold(node, inputs[0])
        elif node.op == "call_method" and node.target == "size":
            return
        else:
            self._operator(node, module, inputs)

    def _operator(self, node: fx.Node, module: nn.Module | None, inputs: list[str]) -> None:
        op_type = self._op_type(node, module)
        if not op_type:
            self._names[node] = tuple(inputs)
            if module is not None:
                self._traced.folded.add(node)
            return
        weighted = isinstance(module, (nn.Conv2d, nn.Linear))
        found = self._list.add(
            op_type,
            inputs,
            outputs=_HALVES if op_type == "Split" else 1,
            module=str(node.target) if weighted else "",
            weights=tuple(module.weight.shape) if weighted else (),  # type: ignore[union-attr,arg-type]
            groups=module.groups if isinstance(module, nn.Conv2d) else 1,
        )
        self._traced.operators[node] = found
        self._names[node] = found.outputs
        self._made[found.name] = node
        if isinstance(module, nn.ReLU6):
            self._traced.ceilings[found.name] = float(module.max_val)

    def _fold(self, node: fx.Node, source: str) -> None:
        convolution = self._made.get(source)
        alone = convolution is not None and len(convolution.users) == 1
        if convolution is None or not alone or not isinstance(self._module(convolution), nn.Conv2d):
            raise self._refusal(f"its BatchNorm {node.target} follows no convolution")
        self._traced.norms[source] = str(node.target)
        self._names[node] = (source,)
        self._traced.folded.add(node)

    def _op_type(self, node: fx.Node, module: nn.Module | None) -> str:
        found: str | None
        if module is not None:
            found = _MODULES.get(type(module))
        elif node.op == "call_method":
            found = _METHODS.get(str(node.target))
        else:
            found = _FUNCTIONS.get(node.target)  # type: ignore[arg-type]
        if found is None:
            raise self._refusal(f"it has {node.target}")
        return found

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        return self._student.get_submodule(str(node.target))

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"{self._arch} cannot be trained for int8: {why}; "
            "train mobilenetv2 or shufflenetv2, or export this run with calibrated ranges"
        )
