"""`python -m runtime info [MODEL]`: what a model says about itself."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.base.command import CommandParser, print_json
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import add_model, model_or_latest
from runtime.inference.open_classifier import read_embedded_card
from runtime.model.acceptance import LONE_FILE
from runtime.model.bundle import open_bundle
from runtime.model.card import Card, EngineRecord, InputSpec, ModelFile, Parity
from runtime.model.locate import find_model

_CLASSES_SHOWN = 10


def main(arguments: Sequence[str]) -> int:
    """Prints the card for people or, with --json, for programs; returns 0.

    Raises:
        BundleError: there is no model, or it is damaged.
    """
    parser = CommandParser(prog="python -m runtime info", description=__doc__)
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="the card as one JSON object")
    options = parser.parse_args(arguments)
    path = find_model(model_or_latest(options.model, sys.stderr if options.json else sys.stdout))
    card = read_embedded_card(path) if path.suffix == ".onnx" else open_bundle(path).card
    if options.json:
        print_json(card)
        return 0
    for line in card_lines(path, card):
        print(on_terminal(line))
    return 0


def card_lines(path: Path, card: Card) -> Iterator[str]:
    """The card of the model at `path`, as lines for people."""
    origin, spec = card.provenance, card.input
    shown = ", ".join(card.class_names[:_CLASSES_SHOWN])
    more = card.num_classes - _CLASSES_SHOWN
    yield f"model        {path}"
    yield f"network      {card.arch}, {origin.params:,} parameters, {origin.macs:,} MACs an image"
    yield f"classes      {card.num_classes}: {shown}" + (f", ... ({more} more)" if more > 0 else "")
    yield (f"input        uint8 RGB {spec.size}x{spec.size} px: {input_words(spec)}")
    training = f"{'+'.join(origin.terms)}, {origin.epochs} epochs, seed {origin.seed}"
    yield f"trained on   {origin.data} with {training}"
    yield (
        f"accuracy     top-1 {origin.top1:.2%}, top-5 {origin.top5:.2%}, "
        f"calibration error {origin.ece:.2%} (temperature {card.temperature:.3f})"
    )
    if (quality := card.quality) is not None:
        worst = quality.worst_class
        yield (
            f"by class     balanced accuracy {quality.balanced_accuracy:.2%}, macro F1 "
            f"{quality.macro_f1:.2%}, worst class {worst.name}: {worst.recall:.2%} of "
            f"{worst.images:,} images found"
        )
    if (data := card.data) is not None:
        made = f", trained on as JPEGs of quality {q}" if (q := data.jpeg_quality) else ""
        yield (
            f"images       {data.train_images:,} trained on, {data.validation_images:,} held out, "
            f"{data.test_images:,} tested on{made}"
        )
    for file in card.files:
        yield f"file         {_file_words(file)}"
    for engine in card.engines:
        yield f"engine       {_engine_words(engine)}"
    if path.suffix == ".onnx":
        yield f"threshold    none: {LONE_FILE}"
    elif not card.files:
        yield "file         none; `python export/run.py RUN` makes them"


def input_words(spec: InputSpec) -> str:
    """What is done to a picture."""
    done = f"short side to {spec.resize}, centre {spec.crop}"
    if spec.fit == "letterbox":
        fill = "#{:02x}{:02x}{:02x}".format(*spec.fill)
        done = f"whole picture, long side to {spec.size}, the rest of the square {fill}"
    elif spec.fit == "stretch":
        done = f"whole picture, stretched to {spec.size}x{spec.size}"
    return f"{done}, {spec.interpolation}"


def _file_words(file: ModelFile) -> str:
    quantized = ""
    if (found := file.quantization) is not None:
        ranges = "ranges " if found.learned_ranges else "calibrated by "
        quantized = f", {ranges}{found.calibration}"
        if found.higher_precision:
            quantized += (
                f", without {', '.join(found.higher_precision)} ({found.higher_precision_macs:.1%} "
                "of the multiply-adds), which stay in a higher precision"
            )
    built = f"{file.precision}, opset {file.opset}{quantized}"
    return f"{file.path}: {built}; {_parity_words(file.parity)}{_threshold_words(file)}"


def _engine_words(engine: EngineRecord) -> str:
    profile = engine.profile
    gpu = f", {engine.gpu_name}" if engine.gpu_name else ""
    return (
        f"{engine.path}: {engine.precision}, {engine.flavor} {engine.tensorrt_version}, "
        f"compute capability {', '.join(engine.compute_capability)}{gpu}, "
        f"batch {profile.min}-{profile.max} (best at {profile.opt}); "
        f"{_parity_words(engine.parity)}{_threshold_words(engine)}"
    )


def _threshold_words(record: ModelFile | EngineRecord) -> str:
    if record.threshold is not None:
        return f"; {record.threshold.words}"
    return f"; no threshold: {record.no_threshold}" if record.no_threshold is not None else ""


def _parity_words(parity: Parity | None) -> str:
    if parity is None:
        return "not verified"
    return (
        f"top-1 {parity.top1:.2%} on {parity.images:,} images, agrees with the trained student on "
        f"{parity.agreement:.2%}, differs by at most {parity.max_difference:.1e}"
    )
