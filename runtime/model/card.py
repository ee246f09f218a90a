"""The model card: the one definition of what a bundle says about itself.

`card.json` lies in every bundle, and each ONNX file carries the same card (without the lists of
files and engines, which cannot hold their own digests) in its metadata, so that a lone `.onnx`
works too.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from runtime.base.errors import BundleError
from runtime.base.files import write_atomic

SCHEMA_VERSION = 1
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
Positive = Annotated[int, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

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


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model file compared with the trained student (torch, float32) on held-out test images."""

    images: Positive
    top1: Fraction
    reference_top1: Fraction
    agreement: Fraction  # share of images with the same first class
    max_difference: float  # largest absolute difference of any probability


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX file of a bundle."""

    path: str
    sha256: Digest
    precision: Precision
    opset: Positive
    exporter: str  # e.g. "torch 2.14.1 dynamo"
    calibration: str | None = None  # int8: how activation ranges were found
    parity: Parity | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Batch sizes that an engine accepts, and the one it is tuned for."""

    min: Positive
    opt: Positive
    max: Positive

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"batch profile {self.min},{self.opt},{self.max} is not ascending")


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One serialized engine of a bundle and the machine it was built for."""

    path: str
    sha256: Digest
    precision: EnginePrecision
    flavor: Flavor
    tensorrt_version: str
    compute_capability: str  # "8.6"
    gpu_name: str | None  # None: for every GPU of that capability
    platform: str  # "Linux-x86_64"
    profile: Profile
    onnx_sha256: Digest
    build_seconds: float | None = None
    parity: Parity | None = None  # None: no GPU at build time, so it has not run


class EpochPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the training curves."""

    epoch: int
    loss: float
    top1: float | None = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from. Holds no local path."""

    run: str  # name of the run folder
    data: str
    terms: Literal["ce", "drg", "dsr", "drg+dsr"]
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


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a runtime has to know of a model."""

    schema_version: int
    arch: str
    class_names: tuple[str, ...]
    input: InputSpec
    temperature: float  # the graph divides the logits by it before the softmax
    provenance: Provenance
    files: tuple[ModelFile, ...] = ()
    engines: tuple[EngineRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version {self.schema_version} is not {SCHEMA_VERSION}: "
                "the card was written by another version"
            )
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


def card_from_json(text: bytes | str, *, source: str) -> Card:
    """Parses a card strictly; `source` names it in the BundleError."""
    try:
        return msgspec.json.decode(text, type=Card)
    except (msgspec.DecodeError, ValueError) as error:  # ValidationError is a DecodeError
        raise BundleError(
            f"{source} is not a valid model card ({error}); "
            "export the run again with `python export/run.py`"
        ) from error


def json_from_card(card: Card) -> bytes:
    """The card as indented JSON, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def read_card(bundle: Path) -> Card:
    """Reads `card.json` of a bundle; BundleError if there is none or it is corrupt."""
    path = bundle / CARD_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{bundle} is not a bundle: it has no {CARD_FILE}; make one with `python export/run.py`"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    return card_from_json(text, source=str(path))


def write_card(bundle: Path, card: Card) -> None:
    """Writes `card.json` atomically."""
    write_atomic(bundle / CARD_FILE, json_from_card(card))
