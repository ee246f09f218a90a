"""From a run to a bundle: export, convert, quantise, verify each file, write what passed."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundles.export_options import FILES_OF, ExportOptions
from export.bundles.file_threshold import check_max_error, fitted, threshold_lines
from export.bundles.printed_tables import model_table, say
from export.bundles.write_bundle import Written, write_bundle
from export.graphs.to_fp16 import to_fp16
from export.graphs.to_int8 import Int8Exporter, Learned, Quantized
from export.graphs.to_onnx import (
    IMAGE_PROPERTIES,
    ExportedGraph,
    export_graph,
    kept_graph,
    model_bytes,
)
from export.trained_run import RunToExport, read_run
from runtime.backends.onnx_session import OnnxSession
from runtime.backends.session import Threads
from runtime.base.errors import UserError, VerificationError
from runtime.base.files import sha256_of_bytes
from runtime.evaluation import gate
from runtime.evaluation.class_report import SHEET_FILE
from runtime.model.bundle import Bundle
from runtime.model.card import (
    METADATA_KEY,
    MODEL_FILES,
    PRECISION_KEY,
    ModelFile,
    Precision,
    Quantization,
)
from runtime.model.card_json import json_from_card
from runtime.model.holdout import VALIDATION_FILE

_BATCH = 64
_WARM_UP, _TIMED = 5, 30
# A thread that verifies does not spin while it waits: other programs may use this machine.
_PATIENT = Threads(spinning=False)


@dataclass(frozen=True)
class Outcome:
    """One verified file.

    Attributes:
        record: what the card says of it.
        content: the bytes of the ONNX file.
        milliseconds: what a batch of one takes here; None if the time would mislead.
        complaint: why it is outside its tolerance; None if it is within.
    """

    record: ModelFile
    content: bytes
    milliseconds: float | None
    complaint: str | None


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        bundle: the bundle's folder.
        outcomes: every file that was made, kept or not.
        written: what is now in the bundle; None if no file was kept and there was no bundle.
    """

    bundle: Path
    outcomes: Sequence[Outcome]
    written: Written | None


def export_and_report(run: Path, options: ExportOptions) -> Bundle:
    """Exports a run, says what is being done, and prints the table of the files.

    Raises:
        UserError: the run, its data or the bundle's folder does not allow it.
        UserError: `require_threshold` is set and no file can promise `max_error`; the files have
            been written.
        VerificationError: a file is outside its tolerance, and `allow_drop` is not set. The other
            files have been written.
    """
    exported = export_run(run, options, lambda text: say(f"  {text}"))
    outcomes = exported.outcomes
    say("\n" + model_table((o.record, len(o.content), o.milliseconds) for o in outcomes))
    for outcome in outcomes:
        if (found := outcome.record.quantization) and found.higher_precision:
            say(
                f"{outcome.record.path}: in a higher precision stay "
                f"{', '.join(found.higher_precision)} ({found.higher_precision_macs:.1%} of the "
                "multiply-adds); without that it is outside of its tolerance"
            )
    if (parity := outcomes[0].record.parity) and parity.unjudged_classes:
        say(gate.unjudged_words(parity))
    for line in threshold_lines(outcome.record for outcome in outcomes):
        say(line)
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
    if options.require_threshold and not any(o.record.threshold for o in outcomes):
        raise UserError(
            f"max_error {options.max_error:g}: no file can promise it, though the files are "
            f"written: {outcomes[0].record.no_threshold}"
        )
    return Bundle(exported.bundle, exported.written.card)


def export_run(folder: Path, options: ExportOptions, say: Callable[[str], None]) -> Exported:
    """Exports the run in `folder` into its bundle and verifies every file.

    A file outside its tolerance is not kept, unless `options.allow_drop` is set. `say` is told
    what is being done.

    Raises:
        UserError: the run, its data or the bundle's folder does not allow it.
        VerificationError: torch or float16 cannot represent the student.
    """
    bundle = options.bundle_of(folder)
    run = read_run(folder, say, data=options.data, data_root=options.data_root)
    if options.require_threshold:
        check_max_error(run.kept, run.no_threshold, options.max_error)
    graph = _float32_graph(run, bundle, options, say)
    outcomes = list(_outcomes(graph, run, options, say))
    kept = [o for o in outcomes if options.allow_drop or o.complaint is None]
    files = [(outcome.record, outcome.content) for outcome in kept]
    refused = {outcome.record.precision for outcome in outcomes if outcome not in kept}
    reports = dict(run.reports)
    if not options.error_sheet:
        reports[SHEET_FILE] = None
    if not options.validation_images:
        reports[VALIDATION_FILE] = None
    card = msgspec.structs.replace(run.card, max_error=options.max_error)
    written = write_bundle(bundle, card, files, run.test, refused=refused, reports=reports)
    return Exported(bundle, outcomes, written)


def _float32_graph(
    run: RunToExport, bundle: Path, options: ExportOptions, say: Callable[[str], None]
) -> ExportedGraph:
    """The graph from which every file is made.

    If float32 is not asked for and the bundle has its file, the graph is read from that file.
    """
    if "fp32" not in options.precisions:
        kept = kept_graph(bundle, run.card.provenance.checkpoint_sha256, options.opset)
        if kept is not None:
            return kept
    say("exporting the float32 graph")
    return export_graph(run.student, run.card.input, run.card.temperature, opset=options.opset)


def _outcomes(
    graph: ExportedGraph, run: RunToExport, options: ExportOptions, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """Makes and verifies each file that was asked for."""
    own: Int8Exporter | None = None  # of the float32 student, with calibrated ranges
    for precision in (kind for request in options.precisions for kind in FILES_OF[request]):
        verify = partial(_verify, precision, graph=graph, run=run, options=options, say=say)
        if precision == "fp32":
            yield verify(graph.model, None)
        elif precision == "fp16":
            yield verify(to_fp16(graph.model), None)
        else:
            if precision in run.learned and options.calibration == "auto":
                say(f"exporting the student that learned {precision}")
                exporter = _learned_exporter(precision, run, options)
            else:
                say(f"calibrating {precision} ({options.calibration})")
                own = own or Int8Exporter(graph.model, run.calibration_data(), _evaluate)
                exporter = own
            plain = exporter.quantize(precision, options.calibration)
            outcome = verify(plain.model, plain)
            if outcome.complaint is not None:
                say(
                    f"{outcome.complaint}: looking for the layers of {precision} that cause it, "
                    "to leave them in a higher precision"
                )
                mended = exporter.repair(precision, options.calibration)
                if mended is None:
                    say("no few layers cause it")
                elif (tried := verify(mended.model, mended)).complaint is None:
                    outcome = tried
            yield outcome


def _learned_exporter(kind: Precision, run: RunToExport, options: ExportOptions) -> Int8Exporter:
    """What makes the int8 file of the student that was trained for it."""
    learned = run.learned[kind]
    card, student = run.card, learned.student
    graph = export_graph(student, card.input, card.temperature, opset=options.opset)
    known = Learned(learned.ranges, learned.epochs, learned.chosen)
    return Int8Exporter(graph.model, run.calibration_data(), _evaluate, known)


def _verify(
    precision: Precision,
    model: ir.Model,
    quantized: Quantized | None,
    *,
    graph: ExportedGraph,
    run: RunToExport,
    options: ExportOptions,
    say: Callable[[str], None],
) -> Outcome:
    """Runs the finished file on the whole test split, with the session that a user gets.

    Its threshold is found with validation images that are kept apart for it.
    """
    name = MODEL_FILES[precision]
    say(f"verifying {name}")
    embedded = json_from_card(run.card).decode()
    content = model_bytes(
        model, {**IMAGE_PROPERTIES, METADATA_KEY: embedded, PRECISION_KEY: precision}
    )
    probabilities = _probabilities(content, name, run.test.images)
    parity, on_holdout = gate.compared(probabilities, run.test, run.card.class_names)
    # On a CPU the int8 file for TensorRT only simulates its arithmetic, so a time would mislead.
    timed = precision != "int8"
    record = ModelFile(
        path=name,
        sha256=sha256_of_bytes(content),
        precision=precision,
        opset=graph.opset,
        exporter=graph.exporter,
        quantization=None if quantized is None else _quantization(quantized),
        parity=parity,
        holdout_parity=on_holdout,
        no_threshold=run.no_threshold,
    )
    if run.kept is not None:
        found = fitted(
            run.kept,
            lambda images: _probabilities(content, name, images),
            max_error=options.max_error,
        )
        record = msgspec.structs.replace(record, **found)
    return Outcome(
        record,
        content,
        milliseconds=_milliseconds(content, name, run.test.images[:1]) if timed else None,
        complaint=gate.complaint(parity, precision),
    )


def _quantization(quantized: Quantized) -> Quantization:
    return Quantization(
        calibration=quantized.calibration,
        learned_ranges=quantized.learned,
        higher_precision=quantized.left_out,
        higher_precision_macs=quantized.left_out_macs,
    )


def _evaluate(model: ir.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _probabilities(model_bytes(model, {}), "a candidate", images)


def _probabilities(content: bytes, source: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (N, K) of uint8 images (N, S, S, 3), in batches of 1, 3, 64, 64, ...

    The sizes differ because the file must really take any batch.
    """
    edges = [0, 1, 4, *range(4 + _BATCH, len(images) + _BATCH, _BATCH)]
    batches = [images[start:end] for start, end in itertools.pairwise(edges)]
    bar = tqdm(batches, desc=source, unit="batch", leave=False, disable=not sys.stderr.isatty())
    with OnnxSession(content, source=source, backend="onnx-cpu", threads=_PATIENT) as session:
        return np.concatenate([session.run(batch) for batch in bar if len(batch)])


def _milliseconds(content: bytes, source: str, image: NDArray[np.uint8]) -> float:
    """Median time of a batch of one, with as many threads as a user gets."""
    times = []
    with OnnxSession(content, source=source, backend="onnx-cpu") as session:
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            session.run(image)
            times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[_WARM_UP:]))
