"""Weights with timm's names: recorded ones, and timm's own network where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.base.errors import UserError
from training.networks.students import build_student
from training.networks.weights import start_from

# timm's names and shapes, and the logits that its network gives of `_values` and `_images`.
RECORDED = json.loads((Path(__file__).parent / "timm_mobilenetv2_050.json").read_text())
CLASSES = 5


def _values(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights of usual sizes, the same on every machine."""
    random = np.random.RandomState(0)  # its numbers never change
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(7)
            continue
        drawn = torch.from_numpy(random.standard_normal(shape)).float()
        if name.endswith("running_var"):
            values[name] = drawn.abs() + 0.5
        elif len(shape) > 1:
            values[name] = drawn * (2 / np.prod(shape[1:])) ** 0.5
        else:
            values[name] = drawn * 0.2 + float(name.endswith("weight"))
    return values


def _images() -> Tensor:
    """Of 96 px, where no stride is changed."""
    drawn = np.random.RandomState(1).standard_normal((2, 3, 96, 96))
    return torch.from_numpy(drawn).float()


def _logits(state: dict[str, Tensor], width: float) -> Tensor:
    student = build_student("mobilenetv2", num_classes=CLASSES, image_size=96, width=width)
    assert start_from(student, state, arch="mobilenetv2") is None
    with torch.no_grad():
        logits: Tensor = student.eval()(_images())
    return logits


@pytest.mark.parametrize("prefix", ["", "module."])
def test_recorded_weights_of_timm_give_its_logits(prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in _values(RECORDED["shapes"]).items()}
    expected = torch.tensor(RECORDED["logits"])
    torch.testing.assert_close(_logits(state, 0.5), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "width"),
    [("mobilenetv2_035", 0.35), ("mobilenetv2_100", 1.0), ("mobilenetv2_140", 1.4)],
)
def test_networks_of_timm_give_its_logits(name: str, width: float) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=CLASSES).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(_values(shapes))
    with torch.no_grad():
        expected = network(_images())
    found = _logits(network.state_dict(), width)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_deeper_network_of_timm_is_another_one() -> None:
    """Like mobilenetv2_120d, but of the student's width, so that only its depth tells."""
    state = _values(RECORDED["shapes"])
    further = {
        name.replace("blocks.1.1.", "blocks.1.2."): value
        for name, value in state.items()
        if name.startswith("blocks.1.1.")
    }
    student = build_student("mobilenetv2", num_classes=CLASSES, image_size=96, width=0.5)
    with pytest.raises(UserError, match=r"has unknown blocks.1.2.bn1.bias and 17 more"):
        start_from(student, state | further, arch="mobilenetv2")
