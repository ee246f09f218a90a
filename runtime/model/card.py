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

# `runtime.model.card_json` has the rule for changes of these two.
SCHEMA_VERSION = 2
MINIMUM_READER = 2
CARD_FILE = "card.json"
ENGINE_FOLDER = "engines"
EXAMPLE_FOLDER = "examples"
HOLDOUT_FILE = "holdout.npz"
METADATA_KEY = "skd_edge_card"  # key of the card's JSON in an ONNX file's metadata
_LONGEST_NAME = 100  # bytes; most file systems end at 255, and files are written under longer names
PRECISION_KEY = "skd_edge_precision"  # key of the file's precision, beside it
INPUT_NAME = "images"  # uint8 (N, size, size, 3), RGB
OUTPUT_NAME = "probabilities"  # float32 (N, num_classes)

EnginePrecision = Literal["fp32", "fp16", "int8"]
Precision = Literal[EnginePrecision, "int8-cpu"]
Flavor = Literal["tensorrt", "tensorrt-rtx"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLAVORS: tuple[Flavor, ...] = get_args(Flavor)
Positive = Annotated[int, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
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
    """The file name, without suffix, of each class's example picture: no two are the same.

    A label's letters, digits, points and hyphens; the class's index where others have the same.
    """
    names: list[str] = []
    taken = set()
    for index, label in enumerate(class_names):
        name = re.sub(r"[^\w.-]+", "_", label).strip("._")
        name = name.encode()[:_LONGEST_NAME].decode(errors="ignore") or str(index)
        while name.casefold() in taken:  # some file systems do not tell A from a
            name = f"{name}-{index}"
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes the network's input.

    A centred square of `crop / resize` of the short side is brought to `size` x `size` pixels in
    one resize (the region of "resize the short side to `resize`, then cut the centre `crop`").
    `mean` and `std` are per RGB channel of images in [0, 1]; they are applied inside the graph,
    never by a caller.
    """

    size: Positive
    resize: Positive
    crop: Positive
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"std {self.std} must be finite and positive")


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A model file compared with the trained student (torch, float32) on held-out test images."""

    images: Positive
    top1: Fraction
    reference_top1: Fraction
    agreement: Fraction  # share of images with the same first class
    max_difference: float  # largest absolute difference of any probability


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How the int8 numbers of a file were found.

    Attributes:
        calibration: how the ranges of activations were found, in words.
        learned_ranges: whether training through fake quantisation found them.
        higher_precision: names of the layers that were left in a higher precision.
        higher_precision_macs: the share of the multiply-adds that those layers have.
    """

    calibration: str
    learned_ranges: bool = False
    higher_precision: tuple[str, ...] = ()
    higher_precision_macs: Fraction = 0.0


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """From which probability on the answers of one file or engine are accepted.

    With the stated confidence at most `max_error` of the accepted answers are wrong (a binomial
    bound on images that were used for no other choice).

    Attributes:
        probability: the lowest probability of a first class that is accepted.
        max_error: the largest share of wrong answers among the accepted ones.
        confidence: how certain the bound is.
        coverage: the share of those images that was accepted.
        images: how many images the bound is from.
    """

    probability: Fraction
    max_error: Fraction
    confidence: Fraction
    coverage: Fraction
    images: Positive


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One ONNX file of a bundle."""

    path: str
    sha256: Digest
    precision: Precision
    opset: Positive
    exporter: str  # e.g. "torch 2.14.1 dynamo"
    quantization: Quantization | None = None  # None: the file is not quantised
    parity: Parity | None = None
    threshold: Threshold | None = None  # None: every answer counts


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Batch sizes that an engine accepts, and the one it is tuned for."""

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
    # ("8.6",), or several where one engine runs on all of them
    compute_capability: ComputeCapabilities
    gpu_name: str | None  # None: for every GPU of those capabilities
    platform: str  # "Linux-x86_64"
    profile: Profile
    onnx_sha256: Digest
    build_seconds: float | None = None
    parity: Parity | None = None  # None: no GPU at build time, so it has not run
    threshold: Threshold | None = None  # None: every answer counts


class EpochPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the training curves."""

    epoch: int
    loss: float
    top1: float | None = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from. Holds no local path."""

    run: str  # name of the run folder
    data: str
    terms: Methods  # the methods it was trained with: ("drg", "dsr"), or ("ce",)
    seed: int
    epochs: int
    top1: Fraction
    top5: Fraction
    ece: Fraction  # expected calibration error at `temperature`
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
    digest: Digest | None = None  # of all images and labels; None: not known


class ClassRecall(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the test images of one class are found."""

    name: str
    recall: Fraction
    images: Positive


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the trained student is on the test images, class by class.

    `runtime.model.figures` defines the figures.
    """

    balanced_accuracy: Fraction
    macro_f1: Fraction
    worst_class: ClassRecall


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """All that a runtime has to know of a model."""

    schema_version: int = SCHEMA_VERSION
    minimum_reader: int = MINIMUM_READER
    arch: str
    class_names: tuple[str, ...]
    input: InputSpec
    temperature: float  # the graph divides the logits by it before the softmax
    provenance: Provenance
    data: DataSummary | None = None
    quality: Quality | None = None
    files: tuple[ModelFile, ...] = ()
    engines: tuple[EngineRecord, ...] = ()

    def __post_init__(self) -> None:
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
