"""How good a run's student is on new labelled images: `python training/evaluate.py RUN DATA`.

DATA is a folder with a folder for each class. The pictures are prepared as the run's own were. The
figures are those of a training; the files that say what fails go to RUN/evaluation/, or to `--out`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, folder_path, print_json, run_command
from runtime.base.files import check_writable
from runtime.base.shown_text import on_terminal
from runtime.evaluation.evaluate_folder import answer_folder, evaluated, lines_of, write_evaluation
from runtime.evaluation.labelled_folder import read_labelled_folder
from runtime.model.figures import softmax
from runtime.model.locate import CHECKPOINT, find_run
from runtime.model.preprocess import preprocess
from training.config.options import DEVICES

_FOLDER = "evaluation"
_CHUNK = 16


def main(arguments: Sequence[str]) -> int:
    """Prints the figures, writes the files, and returns 0.

    Raises:
        UserError: there is no such run, or the data are not laid out as expected.
    """
    options = _parser().parse_args(arguments)
    run = find_run(options.run)
    folder = options.out or run / _FOLDER
    check_writable(folder)
    from training.engine.device import (  # torch takes seconds to import
        choose_device,
        keep_freed_memory,
    )
    from training.engine.full_memory import full_memory_told
    from training.evaluation.logits import logits_of
    from training.records.checkpoint import load_trained

    device = choose_device(options.device)
    keep_freed_memory(device)
    trained = load_trained(run)
    plan = trained.plan
    note = sys.stderr if options.json else sys.stdout
    data = read_labelled_folder(
        options.data, plan.class_names, lambda line: print(on_terminal(line), file=note)
    )
    with full_memory_told(device, f"{_CHUNK} images of {plan.input.size} px"):
        student = trained.student.to(device)
        answered, whole = answer_folder(
            data,
            plan.class_names,
            lambda file: preprocess(file, plan.input),
            lambda images: softmax(
                logits_of(student, images, plan.input, device=device),
                temperature=trained.temperature,
            ),
            chunk=_CHUNK,
            broken=lambda line: print(on_terminal(line), file=sys.stderr),  # noqa: T201
        )
    found = evaluated(
        answered,
        whole,
        model=str(run / CHECKPOINT),
        backend=f"torch on {device.type}",
        precision="fp32",
        root=options.data,
    )
    write_evaluation(
        folder,
        answered,
        whole,
        lambda file: preprocess(file, plan.input),
        sheet=not options.no_error_sheet,
    )
    if options.json:
        print_json(found)
    else:
        lines = [*lines_of(found), "", f"files  {folder}"]
        print("\n".join(map(on_terminal, lines)))  # noqa: T201
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/evaluate.py", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a folder with a folder for each class"
    )
    parser.add_argument(
        "--out", type=folder_path, metavar="DIR", help="where the files go (RUN/evaluation)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--no-error-sheet", action="store_true", help="write no errors.png: for private pictures"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
