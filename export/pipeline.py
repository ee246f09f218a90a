"""From a run to a bundle: export, convert, quantise, verify each file, write what passed."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundles import gate
from export.bundles.export_options import FILES_OF, ExportOptions
from export.bundles.printed_tables import model_table, say
from export.bundles.write_bundle import Written, write_bundle
from export.graphs.to_fp16 import to_fp16
from export.graphs.to_int8 import CalibrationData, Int8Exporter, draw_rows
from export.graphs.to_onnx import ExportedGraph, export_graph, kept_graph, model_bytes
from runtime.backends.onnx_session import OnnxSession
from runtime.backends.session import Threads
from runtime.base.errors import UserError, VerificationError
from runtime.base.files import sha256_of_bytes
from runtime.model.bundle import Bundle
from runtime.model.card import (
    METADATA_KEY,
    MODEL_FILES,
    PRECISION_KEY,
    Card,
    ClassRecall,
    DataSummary,
    ModelFile,
    Precision,
    Provenance,
    Quality,
    Quantization,
)
from runtime.model.card_json import json_from_card
from runtime.model.figures import (
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    softmax,
    top_k,
)
from runtime.model.holdout import Labelled
from runtime.model.locate import RESULT
from runtime.model.preprocess import preprocess
from training.config.plan import Plan
from training.data import Dataset
from training.data.splits import split_validation
from training.evaluation.logits import logits_of
from training.networks.cost import cost_of
from training.records.checkpoint import TrainedRun, load_run_dataset, load_trained

_RESULT_FIELDS = ("epochs", "top1", "top5", "ece", "params", "macs", "recipe", "versions")
_BATCH = 64
_WARM_UP, _TIMED = 5, 30
_PATIENT = Threads(spinning=False)  # of verification: others may use this machine


@dataclass(frozen=True)
class Outcome:
    """One verified file; `complaint` says why it is outside its tolerance."""

    record: ModelFile
    content: bytes
    milliseconds: float | None  # a batch of one here; None where that says nothing
    complaint: str | None


@dataclass(frozen=True)
class Exported:
    """What was made, and what is now in the bundle; None if nothing could be listed."""

    bundle: Path
    outcomes: Sequence[Outcome]
    written: Written | None


def export_and_report(run: Path, options: ExportOptions) -> Bundle:
    """Exports a run, says what is being done, and prints the table of the files.

    Raises:
        UserError: the run, its data or the bundle's folder does not allow it.
        VerificationError: a file is outside its tolerance, and `allow_drop` is not set. The other
            files have been written.
    """
    exported = export_run(run, options, lambda text: say(f"  {text}"))
    outcomes = exported.outcomes
    say("\n" + model_table((o.record, len(o.content), o.milliseconds) for o in outcomes))
    for engine in exported.written.dropped if exported.written else ():
        say(f"removed {engine.path}: its ONNX file changed; build it again")
    failed = [outcome for outcome in outcomes if outcome.complaint is not None]
    for outcome in failed:
        say(f"outside its tolerance: {outcome.record.path}: {outcome.complaint}")
    if (failed and not options.allow_drop) or exported.written is None:
        raise VerificationError(
            f"{', '.join(outcome.record.path for outcome in failed)} not kept: "
            f"{failed[0].complaint}; --allow-drop keeps it in spite of that"
        )
    return Bundle(exported.bundle, exported.written.card)


def export_run(run: Path, options: ExportOptions, say: Callable[[str], None]) -> Exported:
    """Exports a run into its bundle, verified; `say` is told what is being done.

    A file outside its tolerance is listed only with `allow_drop`, and otherwise not kept.
    """
    bundle = options.bundle_of(run)
    trained = load_trained(run)
    dataset = load_run_dataset(trained)
    say(f"evaluating the student on {len(dataset.test_labels):,} test images")
    logits = _logits(trained, dataset.test_images)
    reference = softmax(logits, temperature=trained.temperature).astype(np.float32)
    test = Labelled(dataset.test_images, dataset.test_labels, reference)
    card = _card(trained, dataset, logits)
    graph = _float32_graph(trained, bundle, options, say)
    outcomes = [
        _verify(model, precision, calibration, graph=graph, card=card, test=test, say=say)
        for precision, model, calibration in _models(graph.model, dataset, options, say)
    ]
    kept = [o for o in outcomes if options.allow_drop or o.complaint is None]
    files = [(outcome.record, outcome.content) for outcome in kept]
    refused = {outcome.record.precision for outcome in outcomes if outcome not in kept}
    written = write_bundle(bundle, card, files, test, refused=refused)
    return Exported(bundle, outcomes, written)


def _float32_graph(
    trained: TrainedRun, bundle: Path, options: ExportOptions, say: Callable[[str], None]
) -> ExportedGraph:
    """What every file is made from: exported, or if it is not asked for, the one that is there."""
    if "fp32" not in options.precisions:
        kept = kept_graph(bundle, trained.checkpoint_sha256, options.opset)
        if kept is not None:
            return kept
    say("exporting the float32 graph")
    spec = trained.plan.input
    return export_graph(trained.student, spec, trained.temperature, opset=options.opset)


def _models(
    float32: ir.Model, dataset: Dataset, options: ExportOptions, say: Callable[[str], None]
) -> Iterator[tuple[Precision, ir.Model, str | None]]:
    """Each file that was asked for: precision, graph, and for int8 its calibration."""
    exporter: Int8Exporter | None = None
    for precision in (kind for request in options.precisions for kind in FILES_OF[request]):
        if precision == "fp32":
            yield precision, float32, None
        elif precision == "fp16":
            yield precision, to_fp16(float32), None
        else:
            say(f"calibrating {precision} ({options.calibration})")
            if exporter is None:
                exporter = Int8Exporter(float32, _calibration_data(dataset), _evaluate)
            quantized = exporter.quantize(precision, options.calibration)
            yield precision, quantized.model, quantized.calibration


def _verify(
    model: ir.Model,
    precision: Precision,
    calibration: str | None,
    *,
    graph: ExportedGraph,
    card: Card,
    test: Labelled,
    say: Callable[[str], None],
) -> Outcome:
    """Runs the finished file on the whole test split, with the session that a user gets."""
    name = MODEL_FILES[precision]
    say(f"verifying {name}")
    embedded = json_from_card(card).decode()
    content = model_bytes(model, {METADATA_KEY: embedded, PRECISION_KEY: precision})
    probabilities = _probabilities(content, name, test.images)
    parity = gate.compare(probabilities, test.probabilities, test.labels)
    # On a CPU the file for TensorRT only simulates its arithmetic: a time would mislead.
    milliseconds = None if precision == "int8" else _milliseconds(content, name, test.images[:1])
    record = ModelFile(
        path=name,
        sha256=sha256_of_bytes(content),
        precision=precision,
        opset=graph.opset,
        exporter=graph.exporter,
        quantization=None if calibration is None else Quantization(calibration=calibration),
        parity=parity,
    )
    return Outcome(record, content, milliseconds, gate.complaint(parity, precision))


def _evaluate(model: ir.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _probabilities(model_bytes(model, {}), "a candidate", images)


def _probabilities(content: bytes, source: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, K) in batches of 1, 3, 64, 64, ...: the batch must really be free."""
    edges = [0, 1, 4, *range(4 + _BATCH, len(images) + _BATCH, _BATCH)]
    batches = [images[start:end] for start, end in itertools.pairwise(edges)]
    bar = tqdm(batches, desc=source, unit="batch", leave=False, disable=not sys.stderr.isatty())
    with OnnxSession(content, source=source, backend="onnx-cpu", threads=_PATIENT) as session:
        return np.concatenate([session.run(batch) for batch in bar if len(batch)])


def _milliseconds(content: bytes, source: str, image: NDArray[np.uint8]) -> float:
    """Median time of a batch of one, with the threads that a user gets."""
    times = []
    with OnnxSession(content, source=source, backend="onnx-cpu") as session:
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            session.run(image)
            times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[_WARM_UP:]))


def _logits(trained: TrainedRun, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    device = torch.device("cpu")
    return logits_of(trained.student, images, trained.plan.input, device=device)


def _calibration_data(dataset: Dataset) -> CalibrationData:
    """Training images, decoded once for training, through the runtime's crop and resize."""
    observed, others = draw_rows(len(dataset.train_labels))
    images, validation = (
        np.stack([preprocess(image, dataset.input) for image in dataset.train_images[rows]])
        for rows in (observed, others)
    )
    return CalibrationData(images, validation, dataset.train_labels[others])


def _card(trained: TrainedRun, dataset: Dataset, logits: NDArray[np.float32]) -> Card:
    labels = dataset.test_labels
    plan, result = trained.plan, trained.result or _measured(trained, logits, labels)
    provenance = {
        "run": trained.folder.resolve().name,
        "data": plan.data,
        "terms": _methods(plan),
        "seed": plan.seed,
        "checkpoint_sha256": trained.checkpoint_sha256,
        "history": msgspec.to_builtins(trained.history),
    }
    try:
        provenance |= {name: result[name] for name in _RESULT_FIELDS}
        measured = msgspec.convert(provenance, Provenance)
    except (KeyError, msgspec.ValidationError) as error:
        raise UserError(
            f"{trained.folder / RESULT} is not that of a finished run ({error}); "
            "delete it, and `python training/run.py ... --resume` writes it again"
        ) from error
    return Card(
        arch=plan.arch,
        class_names=plan.class_names,
        input=plan.input,
        temperature=trained.temperature,
        provenance=measured,
        data=_data_summary(plan, dataset),
        quality=_quality(plan.class_names, logits, labels),
    )


def _methods(plan: Plan) -> list[str]:
    """The names of the methods that trained the run, as `--terms` of a study has them."""
    return plan.terms.split("+") if plan.recipe.peer == "none" else [plan.recipe.peer]


def _data_summary(plan: Plan, dataset: Dataset) -> DataSummary:
    trained, held_out = split_validation(dataset.train_labels, plan.recipe.validation_fraction)
    return DataSummary(
        train_images=len(trained),
        validation_images=len(held_out),
        test_images=len(dataset.test_labels),
        digest=plan.data_digest or None,
    )


def _quality(
    class_names: tuple[str, ...], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Quality:
    figures = class_figures(confusion_matrix(logits, labels))
    worst = int(np.where(figures.images > 0, figures.recall, np.inf).argmin())
    return Quality(
        balanced_accuracy=figures.balanced_accuracy,
        macro_f1=figures.macro_f1,
        worst_class=ClassRecall(
            name=class_names[worst],
            recall=float(figures.recall[worst]),
            images=int(figures.images[worst]),
        ),
    )


def _measured(
    trained: TrainedRun, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, object]:
    """What result.json would say, of a run that was interrupted before it wrote one."""
    cost = cost_of(trained.student, image_size=trained.plan.input.size)
    probabilities = softmax(logits, temperature=trained.temperature)
    return {
        "epochs": len(trained.history),
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "ece": expected_calibration_error(probabilities, labels),
        "params": cost.params,
        "macs": cost.macs,
        "recipe": msgspec.to_builtins(trained.plan.recipe),
        "versions": {},  # those that trained it are not known
    }
