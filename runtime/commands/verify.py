"""`python -m runtime verify [BUNDLE]`: does every file answer here as it did when it was exported?

Each file and engine that runs on this machine is run on the bundle's held-out test images, and
compared with what the trained student answered. Exit code 3: a file is damaged, or outside of its
precision's tolerance.
"""

import sys
from collections.abc import Iterator, Sequence

from runtime.base.command import CommandParser, print_json
from runtime.base.errors import BundleError, VerificationError
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import add_backend, add_model, model_or_latest
from runtime.evaluation.verify_model import Verified, verify_bundle
from runtime.model.bundle import open_bundle
from runtime.model.locate import find_model


def main(arguments: Sequence[str]) -> int:
    """Prints the result of each file; returns 0.

    Raises:
        UserError: there is no such backend, or the model is a file without test images.
        BundleError: there is no bundle, or it or its test images are damaged.
        BackendError: no file runs here.
        VerificationError: a file does not pass.
    """
    given = _parser().parse_args(arguments)
    model = model_or_latest(given.model, sys.stderr if given.json else sys.stdout)
    path = find_model(model)
    if path.suffix == ".onnx":
        raise BundleError(
            f"{path} is a lone file; expected a bundle, which holds the test images to verify with"
        )
    results: list[Verified] = []
    verified = verify_bundle(
        open_bundle(path), not_run=_print_not_run, backend=given.backend, precision=given.precision
    )
    for result in verified:
        results.append(result)
        if given.json:
            print_json(result, flush=True)
        elif sys.stderr.isatty():
            print(f"ran {result.path} on {result.backend}", file=sys.stderr)
    failed = [result for result in results if not result.passed]
    if not given.json:
        print("\n".join(map(on_terminal, _lines(results))))
    if failed:
        complaints = (f"{result.path} on {result.backend}: {result.complaint}" for result in failed)
        raise VerificationError("; ".join(complaints))
    return 0


def _print_not_run(line: str) -> None:
    print(on_terminal(f"not run: {line}"), file=sys.stderr)


def _lines(results: Sequence[Verified]) -> Iterator[str]:
    """A table for people."""
    heading = ("file", "backend", "top-1", "agreement", "difference", "worst class", "")
    rows: list[tuple[str, ...]] = [heading, *(_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    measured = next((result for result in results if result.reference_top1 is not None), None)
    if measured is not None:
        yield (
            f"{measured.images} held-out test images; the trained student answers "
            f"{measured.reference_top1:.2%} of them rightly"
        )


def _row(result: Verified) -> tuple[str, ...]:
    verdict = "passed" if result.passed else "FAILED"
    if result.top1 is None:
        return (result.path, result.backend, "-", "-", "-", "-", verdict)
    worst = result.worst_class
    recalls = (
        "-"
        if worst is None
        else f"{worst.name}: {worst.recall_before:.0%} to {worst.recall_after:.0%}"
    )
    return (
        result.path,
        result.backend,
        f"{result.top1:.2%}",
        f"{result.agreement:.2%}",
        f"{result.max_difference:.1e}",
        recalls,
        verdict,
    )


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m runtime verify", description=__doc__)
    add_model(parser)
    add_backend(parser, only=True)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for each file")
    return parser
