"""What can be asked of an export, and how it is spelt. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from runtime.base.errors import UserError
from runtime.model.card import EnginePrecision, Precision
from runtime.model.locate import BUNDLE

Request = EnginePrecision  # what --precision names: the ONNX files that engines are built from
REQUESTS: tuple[Request, ...] = get_args(Request)
FILES_OF: dict[Request, tuple[Precision, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "int8": ("int8", "int8-cpu"),  # for TensorRT and for onnxruntime's CPU kernels
}

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
Calibration = Literal["auto", "minmax", "percentile", "entropy"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)

DEFAULT_OPSET = 20  # the newest that TensorRT 10.3 and onnxruntime 1.23 both read
LEGACY_OPSET = 17  # for TensorRT 8.6; torch's default exporter begins at 18
# From 19 on Q/DQ may have float16 scales: only then does int8 leave the rest of a strongly typed
# network in float16.
HALF_SCALES_OPSET = 19


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a run, and how."""

    precisions: Sequence[Request]
    opset: int = DEFAULT_OPSET
    calibration: Calibration = "auto"
    allow_drop: bool = False
    out: Path | None = None  # None: RUN/bundle

    def __post_init__(self) -> None:
        if not LEGACY_OPSET <= self.opset <= DEFAULT_OPSET:
            raise UserError(
                f"opset {self.opset} cannot be exported; choose {DEFAULT_OPSET} (default), "
                f"{LEGACY_OPSET} for TensorRT 8.6, or one between"
            )


def bundle_of(run: Path, options: ExportOptions) -> Path:
    """The folder that a run is exported to."""
    return options.out if options.out is not None else run / BUNDLE


def parse_precisions(text: str) -> tuple[Request, ...]:
    """The words of "fp32,int8", each once; UserError for an unknown one."""
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in REQUESTS]
    if unknown:
        raise UserError(
            f"precision {unknown[0]!r} is unknown; expected one or more of {','.join(REQUESTS)}"
        )
    return tuple(request for request in REQUESTS if request in words)
