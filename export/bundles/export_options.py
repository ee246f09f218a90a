"""What can be asked of an export, and the words for it. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from runtime.base.errors import UserError
from runtime.evaluation.threshold import DEFAULT_MAX_ERROR
from runtime.model.card import EnginePrecision, Precision
from runtime.model.locate import BUNDLE

# A word of --precision. It names an ONNX file from which an engine can be built.
Request = EnginePrecision
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
# From 19 on Q/DQ nodes may have float16 scales. Only then can those layers of a strongly typed
# network that are not int8 stay in float16.
HALF_SCALES_OPSET = 19


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a run, and how.

    Attributes:
        precisions: the files to export.
        opset: the ONNX opset, 17 to 20.
        calibration: how int8 finds its ranges; "auto" measures every method.
        allow_drop: whether files outside their tolerance are kept.
        out: the bundle's folder; None means RUN/bundle.
        data: where the run's data lie now, if they were moved.
        data_root: the same for the files of a published data set.
        error_sheet: whether the bundle gets the run's picture of the worst mistakes.
        max_error: the share of wrong answers that a threshold allows among the accepted ones.
        require_threshold: whether an export fails if no file can promise that.
        validation_images: whether the bundle gets the images that thresholds are found with.
    """

    precisions: Sequence[Request]
    opset: int = DEFAULT_OPSET
    calibration: Calibration = "auto"
    allow_drop: bool = False
    out: Path | None = None
    data: str | None = None
    data_root: Path | None = None
    error_sheet: bool = True
    max_error: float = DEFAULT_MAX_ERROR
    require_threshold: bool = False
    validation_images: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for an opset that cannot be exported, or an impossible promise."""
        if not 0 < self.max_error < 1:  # NaN is neither
            raise UserError(
                f"max_error {self.max_error:g} cannot be promised; expected a share of wrong "
                f"answers above 0 and below 1, such as {DEFAULT_MAX_ERROR}"
            )
        if not LEGACY_OPSET <= self.opset <= DEFAULT_OPSET:
            raise UserError(
                f"opset {self.opset} cannot be exported; choose {DEFAULT_OPSET} (default), "
                f"{LEGACY_OPSET} for TensorRT 8.6, or one between"
            )

    def bundle_of(self, run: Path) -> Path:
        """The folder to which the run in the folder `run` is exported."""
        return self.out if self.out is not None else run / BUNDLE


def parse_precisions(text: str) -> tuple[Request, ...]:
    """The words of a list such as "int8,fp32", each once, in the order of `REQUESTS`.

    Raises:
        UserError: a word is unknown.
    """
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in REQUESTS]
    if unknown:
        raise UserError(
            f"precision {unknown[0]!r} is unknown; expected one or more of {','.join(REQUESTS)}"
        )
    return tuple(request for request in REQUESTS if request in words)
