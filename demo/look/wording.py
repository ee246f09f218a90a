"""How the page writes numbers and names, so that it writes them in one way everywhere."""

import math
from collections.abc import Sequence

from runtime.backends.registry import backend_named
from runtime.model.card import Card, Fit

NARROW_SPACE = "\u202f"  # between a number and its unit; no line is broken there

_ARCHITECTURES = {
    "mobilenetv2": "MobileNetV2",
    "shufflenetv2": "ShuffleNetV2",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnext50_32x4d": "ResNeXt-50",
    "densenet121": "DenseNet-121",
}
_TERMS = {
    "ce": "plain cross-entropy",
    "drg": "self-distillation with reverse guidance (DRG)",
    "dsr": "self-distillation with shape regularization (DSR)",
    "drg+dsr": "self-distillation with reverse guidance and shape regularization (DRG + DSR)",
}
_PRECISIONS = {"int8-cpu": "int8 (CPU)", "int8": "int8 (TensorRT)"}
_FITS: dict[Fit, str] = {
    "crop": "the square at the centre is looked at",
    "letterbox": "looked at whole, with bars that make it a square",
    "stretch": "looked at whole, stretched to a square",
}
_SMALLEST_SHOWN = 0.0005
_SMALLEST_POINTS = 1e-5
_TWO_DIGITS = 9.95  # from here on, two digits leave none behind the decimal point


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as per cent with one decimal.

    It writes "< 0.1 %" and "> 99.9 %" for what would be rounded to 0 or 100, but is neither.
    """
    if 0 < fraction < _SMALLEST_SHOWN:
        return f"<{NARROW_SPACE}0.1{NARROW_SPACE}%"
    if 1 - _SMALLEST_SHOWN < fraction < 1:
        return f">{NARROW_SPACE}99.9{NARROW_SPACE}%"
    return f"{100 * fraction:.1f}{NARROW_SPACE}%"


def milliseconds(value_ms: float) -> str:
    """A duration in milliseconds; from one second onwards it is written in seconds."""
    return _with_unit(value_ms, (("s", 1e3), ("ms", 1)))


def count(value: float) -> str:
    """A count in short form, such as 2.24 M."""
    return _with_unit(value, (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def file_size(num_bytes: int) -> str:
    """A number of bytes in decimal units, such as 8.91 MB."""
    return _with_unit(num_bytes, (("MB", 1e6), ("kB", 1e3), ("bytes", 1)))


def points(fraction: float) -> str:
    """A difference of two fractions in [0, 1], in percentage points.

    It has two digits, or all digits of a number of 10 or more.
    """
    if 0 < fraction < _SMALLEST_POINTS:
        return f"<{NARROW_SPACE}0.001 points"
    shown = 100 * fraction
    return f"{shown:.0f} points" if shown >= _TWO_DIGITS else f"{shown:.2g} points"


def square(edge: int) -> str:
    """The size of a square image, as 32 x 32 px with a real multiplication sign."""
    return f"{edge}{NARROW_SPACE}\u00d7{NARROW_SPACE}{edge}{NARROW_SPACE}px"


def fit(name: Fit) -> str:
    """What part of a picture the network looks at."""
    return _FITS[name]


def _with_unit(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """`value` in the first unit of which it has at least one, with three digits at most.

    If there is no such unit, the last one is taken.
    """
    unit, size = next((pair for pair in units if value >= pair[1]), units[-1])
    scaled = value / size
    decimals = min(2, max(0, 2 - math.floor(math.log10(scaled)))) if scaled > 0 else 0
    if scaled == int(scaled):
        decimals = 0
    return f"{scaled:,.{decimals}f}{NARROW_SPACE}{unit}".rstrip(NARROW_SPACE)


def architecture(arch: str) -> str:
    """The name of an architecture as papers write it, such as MobileNetV2."""
    return _ARCHITECTURES.get(arch, arch)


def terms(methods: Sequence[str]) -> str:
    """How a model was trained, from the `terms` of its card."""
    name = "+".join(method for method in methods if method != "teacher") or "ce"
    words = _TERMS.get(name, name)
    return f"{words}, taught by another network" if "teacher" in methods else words


def backend(name: str) -> str:
    """A backend as people call it, such as ONNX Runtime, CPU."""
    return backend_named(name).title


def precision(name: str | None) -> str:
    """A precision as people call it; the card of a lone ONNX file may name none."""
    return _PRECISIONS.get(name, name) if name else "precision not stated"


def model(card: Card) -> str:
    """A model in three words: its architecture and its data."""
    return f"{architecture(card.arch)} on {card.provenance.data}"
