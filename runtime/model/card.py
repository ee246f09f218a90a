"""The model card: the one definition of what a bundle says about itself.

`card.json` lies in every bundle. Each ONNX file carries the same card in its metadata, so that a
lone `.onnx` works too; only the lists of files and engines are missing there, because a file cannot
hold its own digest. Because every file carries it, the card stays small: tables of classes and
sheets of errors are files of the bundle, not fields of the card.

Keys that are not known are ignored when a card is read, at every level. `runtime.model.card_json`
has the rule for changes of the schema.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from runtime.model.acceptance import Fraction, Positive
from runtime.model.acceptance import Threshold as Threshold

# `runtime.model.card_json` has the rule for changes of these two.
SCHEMA_VERSION = 4
MINIMUM_READER = 2
_READER_OF_FITS = 3  # an older one would crop every picture
CARD_FILE = "card.json"
ENGINE_FOLDER = "engines"
EXAMPLE_FOLDER = "examples"
HOLDOUT_FILE = "holdout.npz"
METADATA_KEY = "skd_edge_card"  # key of the card's JSON in an ONNX file's metadata
PRECISION_KEY = "skd_edge_precision"  # key of the file's precision in the same metadata
INPUT_NAME = "images"  # uint8 (N, size, size, 3), RGB
OUTPUT_NAME = "probabilities"  # float32 (N, num_classes)
_LONGEST_NAME = 100  # bytes: file systems allow 255, and a temporary name is longer

EnginePrecision = Literal["fp32", "fp16", "int8"]
Precision = Literal[EnginePrecision, "int8-cpu"]
Flavor = Literal["tensorrt", "tensorrt-rtx"]
Fit = Literal["crop", "letterbox", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLAVORS: tuple[Flavor, ...] = get_args(Flavor)
ComputeCapabilities = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Methods = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

MODEL_FILES: dict[str, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-cpu": "model.int8-cpu.onnx",
}


def example_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The file name, without suffix, of each class's example picture. No two are the same.

    A name has the letters, digits, points and hyphens of the label. If another class has the same
    name already, the class's index is added.
    """
    names: list[str] = []
    taken = set()
    for index, label in enumerate(class_names):
        name = re.sub(r"[^\w.-]+", "_", label).strip("._")
        name = name.encode()[:_LONGEST_NAME].decode(errors="ignore") or str(index)
        while name.casefold() in taken:  # for some file systems A and a are the same
            name = f"{name}-{index}"
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes the network's input, which is a square.

    - "crop": the centred square whose edge is `crop / resize` of the image's short side is resized
      to `size` pixels. That is resizing the short side to `resize` and cutting the centre to
      `crop`, but it is resized once instead of twice.
    - "letterbox": the long side is resized to `size`; the picture lies in the middle of `fill`.
    - "stretch": the whole picture is resized to the square, and its proportions are lost.

    Attributes:
        size: edge of the network's input in pixels.
        resize: see above, in pixels.
        crop: see above, in pixels; at most `resize`, and equal to it where nothing is cut off.
        interpolation: of the resize.
        fit: see above. Cards that do not state it mean "crop".
        mean: of each RGB channel of images in [0, 1]. The graph subtracts it, never a caller.
        std: of each RGB channel of images in [0, 1]. The graph divides by it, never a caller.
    """

    size: Positive
    resize: Positive
    crop: Positive
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Fit = "crop"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        if self.fit != "crop" and self.crop != self.resize:
            raise ValueError(f"fit {self.fit} cuts nothing off, and crop {self.crop} is not resize")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"std {self.std} must be finite and positive")

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour beside a letterboxed picture: the mean, which the graph makes about 0."""
        red, green, blue = (min(max(round(255 * m), 0), 255) for m in self.mean)
        return red, green, blue


class ClassChange(msgspec.Struct, frozen=True, kw_only=True):
    """How many images of one class the student finds, and how many of them the file."""

    name: str
    recall_before: Fraction
    recall_after: Fraction
    images: Positive


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A model file compared with the trained student (torch, float32) on held-out test images.

    Attributes:
        images: how many were compared.
        top1: the share of them whose first class is right, by the file.
        reference_top1: the same by the trained student.
        agreement: the share of them for which both have the same first class.
        max_difference: the largest absolute difference of any probability.
        worst_class: the class that loses most recall; None in cards that do not state it.
        lost_classes: names of the classes that lose more images than the gate tolerates.
        unjudged_classes: how many classes have too few images to be judged.
    """

    images: Positive
    top1: Fraction
    reference_top1: Fraction
    agreement: Fraction
    max_difference: float
    worst_class: ClassChange | None = None
    lost_classes: tuple[str, ...] = ()
    unjudged_classes: int = 0


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How the int8 numbers of a file were found.

    Attributes:
        calibration: how the ranges of activations were found, in words.
        learned_ranges: whether they were learned by training with simulated int8 numbers.
        higher_precision: names of the layers that stay in a higher precision.
        higher_precision_macs: those layers' share of the network's multiply-adds.
    """

    calibration: str
    learned_ranges: bool = False
    higher_precision: tuple[str, ...] = ()
    higher_precision_macs: Fraction = 0.0


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One ONNX file of a bundle."""

    path: str
    sha256: Digest
    precision: Precision
    opset: Positive
    exporter: str  # e.g. "torch 2.14.1 dynamo"
    quantization: Quantization | None = None  # None: the file is not quantised
    parity: Parity | None = None
    holdout_parity: Parity | None = None  # at export, on the images of `holdout.npz` alone
    threshold: Threshold | None = None  # None: every answer counts
    no_threshold: str | None = None  # why it has none, in words


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest and largest batch that an engine accepts, and the one that it is tuned for."""

    min: Positive
    opt: Positive
    max: Positive

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch profile {self.min},{self.opt},{self.max} is not ascending")


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One serialized engine of a bundle and the machines it was built for."""

    path: str
    sha256: Digest
    precision: EnginePrecision
    flavor: Flavor
    tensorrt_version: str
    compute_capability: ComputeCapabilities  # ("8.6",), or several that one engine runs on
    gpu_name: str | None  # None: it runs on every GPU of those capabilities
    platform: str  # "Linux-x86_64"
    profile: Profile
    onnx_sha256: Digest
    build_seconds: float | None = None
    parity: Parity | None = None  # None: it has not run, because it was built without a GPU
    threshold: Threshold | None = None  # None: every answer counts
    no_threshold: str | None = None  # why it has none, in words


class EpochPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the training curves."""

    epoch: int
    loss: float
    top1: float | None = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from. It holds no local path."""

    run: str  # name of the run folder
    data: str
    terms: Methods  # names of the methods that trained it: ("drg", "dsr"), or ("ce",)
    seed: int
    epochs: int
    top1: Fraction
    top5: Fraction
    ece: Fraction  # expected calibration error, at the card's temperature
    params: Positive
    macs: Positive
    checkpoint_sha256: Digest
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}
    history: list[EpochPoint] = []


class DataSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The images that the student was trained, calibrated and tested on."""

    train_images: Positive
    validation_images: Annotated[int, msgspec.Meta(ge=0)] = 0
    test_images: Positive
    digest: Digest | None = None  # of the labels and some of the images; None: not known
    content_digest: Digest | None = None  # of the labels and all images; None: not known
    # Of the JPEGs that the training images were made to (--cache encoded:Q); None: to none.
    jpeg_quality: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None


class ClassRecall(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the test images of one class are found."""

    name: str
    recall: Fraction
    images: Positive


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the student is on the test images; `runtime.model.figures` has the definitions."""

    balanced_accuracy: Fraction
    macro_f1: Fraction
    worst_class: ClassRecall


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a runtime needs to know of a model."""

    schema_version: int = SCHEMA_VERSION
    minimum_reader: int = MINIMUM_READER
    arch: str
    class_names: tuple[str, ...]
    input: InputSpec
    temperature: float  # the graph divides the logits by it before the softmax
    provenance: Provenance
    data: DataSummary | None = None
    quality: Quality | None = None
    max_error: Fraction | None = None  # what the bundle's newest thresholds allow
    files: tuple[ModelFile, ...] = ()
    engines: tuple[EngineRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.input.fit != "crop" and self.minimum_reader < _READER_OF_FITS:
            msgspec.structs.force_setattr(self, "minimum_reader", _READER_OF_FITS)
        if not self.class_names:
            raise ValueError("class_names is empty")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature} must be finite and positive")
        paths = [file.path for file in self.files] + [engine.path for engine in self.engines]
        for path in paths:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"path {path!r} leaves the bundle")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def file(self, precision: str) -> ModelFile | None:
        """The ONNX file of that precision, or None."""
        return next((f for f in self.files if f.precision == precision), None)
