"""`python -m runtime compare OLD NEW [DATA]`: is the new model worse than the old one?

Both answer the held-out test images of the old bundle, or those of DATA, a folder of class folders.
McNemar's exact test decides on the images that only one of them answers rightly. Exit code 3: the
new model is worse beyond chance.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.base.command import CommandParser, print_json
from runtime.base.errors import VerificationError
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import add_backend
from runtime.evaluation.compare_models import Compared
from runtime.evaluation.compare_on_images import answer_holdout, compare_on_folder
from runtime.inference.open_classifier import open_classifier

_MAX_SHOWN = 10


def main(arguments: Sequence[str]) -> int:
    """Prints both models' figures; returns 0.

    Raises:
        UserError: the models know different classes, or have no test images in common.
        BundleError: a model is missing or damaged.
        BackendError: a model does not run here.
        VerificationError: the new model is worse beyond chance.
    """
    given = _parser().parse_args(arguments)
    wanted = {"backend": given.backend, "precision": given.precision}
    with open_classifier(given.old, **wanted) as old, open_classifier(given.new, **wanted) as new:
        if given.data is None:
            found = answer_holdout(old, new, note=_print_note).compared()
        else:
            found = compare_on_folder(old, new, given.data, note=_print_note)
    if given.json:
        print_json(found)
    else:
        print("\n".join(map(on_terminal, _lines(found))))
    if found.is_worse:
        raise VerificationError(
            f"{given.new}: {found.verdict}: of {found.images} images {found.worse} are wrong "
            f"now and were right, {found.better} the other way round"
        )
    return 0


def _print_note(line: str) -> None:
    print(on_terminal(line), file=sys.stderr)


def _lines(found: Compared) -> Iterator[str]:
    """The figures for people."""
    yield f"{found.images} images: top-1 {found.old_top1:.2%} old, {found.new_top1:.2%} new"
    yield f"{found.worse} only the old one answers rightly, {found.better} only the new one"
    yield found.verdict
    yield ""
    width = max(len("class"), *(len(row.name) for row in found.classes))
    yield f"{'class':<{width}}  images  old recall  new recall"
    for row in found.classes:
        recalls = f"{row.old_recall:>10.2%}  {row.new_recall:>10.2%}"
        yield f"{row.name:<{width}}  {row.images:>6}  {recalls}"
    if found.flipped:
        yield ""
    for flip in found.flipped[:_MAX_SHOWN]:
        yield f"{flip.image}: {flip.true}; old {flip.old}, new {flip.new}"
    if len(found.flipped) > _MAX_SHOWN:
        yield f"and {len(found.flipped) - _MAX_SHOWN} more; --json lists all"


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m runtime compare", description=__doc__)
    what = "a bundle, a run or an .onnx file"
    parser.add_argument("old", type=Path, metavar="OLD", help=what)
    parser.add_argument("new", type=Path, metavar="NEW", help=what)
    parser.add_argument(
        "data",
        nargs="?",
        type=Path,
        metavar="DATA",
        help="a folder with a folder for each class (default: the bundle's test images)",
    )
    add_backend(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser
