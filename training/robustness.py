"""Top-1 and ECE under image corruptions: `python training/robustness.py RUN [RUN ...]`.

It measures the test split, clean and under noise, blur, brightness, contrast and JPEG at severities
1 to 5, as uint8 images before normalisation. Each run gets a line in
`results/STUDY-robustness.jsonl`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, folder_path, run_command
from training.config.command_words import stated_command
from training.config.options import DEVICES, file_word, seed_number
from training.config.plan import MovedData
from training.studies.result_lines import RESULTS, merge_lines
from training.studies.robustness_lines import (
    lines_file,
    measure_robustness,
    robustness_table,
)


def main(arguments: Sequence[str]) -> int:
    """Measures every run, then prints the table."""
    options = _parser().parse_args(arguments)
    path = RESULTS / lines_file(options.study)
    stated = {"study": options.study, "device": options.device, "seed": options.seed}
    call = f"{stated_command('training/robustness.py', stated, _parser())} RUN [RUN ...]"
    lines = []
    for run in options.runs:
        line = measure_robustness(
            run,
            study=options.study,
            command=call,
            device=options.device,
            moved=MovedData(options.data, options.data_root),
            seed=options.seed,
        )
        merge_lines(path, [line])
        lines.append(line)
    print(f"{robustness_table(lines)}\n\nlines  {path}")  # noqa: T201
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/robustness.py", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run"
    )
    parser.add_argument(
        "--study", type=file_word, default="main", help="the word for these runs (default: main)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--data", metavar="NAME_OR_PATH", help="where the data lies now, if it was moved"
    )
    parser.add_argument(
        "--data-root", type=folder_path, metavar="DIR", help="the same for a known data set"
    )
    return parser


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
