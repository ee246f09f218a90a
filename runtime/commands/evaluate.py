"""`python -m runtime evaluate [MODEL] DATA`: how good a model is on new labelled images.

DATA is a folder with a folder for each class. The figures are those of a training: top-1, each
class's precision, recall and F1, what is confused, and the pictures that are answered wrongly.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.backends.session import Threads
from runtime.base.command import CommandParser, folder_path, print_json
from runtime.base.errors import UserError
from runtime.base.files import check_writable
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import MODEL_HELP, add_backend, model_or_latest
from runtime.evaluation.evaluate_folder import answer_folder, evaluated, lines_of, write_evaluation
from runtime.evaluation.labelled_folder import read_labelled_folder
from runtime.inference.open_classifier import open_classifier
from runtime.model.locate import is_model

_MOST_ARGUMENTS = 2


def main(arguments: Sequence[str]) -> int:
    """Prints the figures; returns 0.

    Raises:
        UserError: the data are not laid out as expected, or are broken.
        BundleError: there is no model, or it is damaged.
        BackendError: the model does not run here.
    """
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    if given.out is None:
        parser.refuse_unused(given, ("no_error_sheet",), "without --out")
    if len(given.arguments) > _MOST_ARGUMENTS:
        raise UserError(f"received {len(given.arguments)} arguments, expected MODEL and DATA")
    *named, root = given.arguments
    if not named and is_model(root):
        raise UserError(
            f"no data were named after the model {root}; name a folder of class folders"
        )
    if given.out is not None:
        check_writable(given.out)
    note = sys.stderr if given.json else sys.stdout
    model = model_or_latest(named[0] if named else None, note)
    with open_classifier(
        model,
        backend=given.backend,
        precision=given.precision,
        threads=Threads(intra_op=1, spinning=False),  # each core answers its own images
    ) as classifier:
        names = classifier.card.class_names
        data = read_labelled_folder(root, names, lambda line: print(on_terminal(line), file=note))
        print(on_terminal(classifier.describe()), file=note)
        answered, whole = answer_folder(
            data,
            names,
            classifier.prepare,
            classifier.probabilities,
            chunk=classifier.chunk,
            broken=lambda line: print(on_terminal(line), file=sys.stderr),
        )
        found = evaluated(
            answered,
            whole,
            model=classifier.source,
            backend=classifier.backend,
            precision=classifier.precision,
            root=root,
            threshold=classifier.threshold,
        )
        if given.out is not None:
            write_evaluation(
                given.out, answered, whole, classifier.prepare, sheet=not given.no_error_sheet
            )
    if given.json:
        print_json(found)
    else:
        print("\n".join(map(on_terminal, lines_of(found))))
        if given.out is not None:
            print("\n" + on_terminal(f"files  {given.out}"))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m runtime evaluate", description=__doc__)
    parser.add_argument(
        "arguments",
        nargs="+",
        type=Path,
        metavar="[MODEL] DATA",
        help=f"MODEL is {MODEL_HELP}; DATA is a folder with a folder for each class",
    )
    parser.add_argument(
        "--out",
        type=folder_path,
        metavar="DIR",
        help="write classes.csv, confusion.csv, errors.csv and errors.png to it",
    )
    parser.add_argument("--no-error-sheet", action="store_true", help="write no errors.png")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_backend(parser)
    return parser
