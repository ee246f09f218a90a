"""Writes results/*.md and the tables of RESULTS.md and README.md: `python training/report.py`.

All of them are made of the raw lines in `results/` alone, so whoever runs this gets the same bytes.
Of both documents only what is between `<!-- results:NAME -->` and `<!-- /results -->` is written;
NAME is a study, `robustness`, `cost`, `h100` for what was printed there, `open` for the plan, or
`answer` and `gain` for what the confirming study says in three sentences and in one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, run_command
from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from training.studies.report_pages import (
    block_names,
    block_text,
    draw_plots,
    other_pages,
    page_texts,
)
from training.studies.result_lines import RESULTS

REPORT, README = Path("RESULTS.md"), Path("README.md")
_BLOCK = re.compile(r"(<!-- results:([\w.-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Writes the tables, the pages and the plots; removes pages that have no lines any more."""
    _parser().parse_args(arguments)
    for document in (REPORT, README):
        try:
            text = document.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{document} cannot be read ({error.strerror}); run this beside it"
            ) from error
        write_atomic(document, rendered(text, RESULTS))
    pages = page_texts(RESULTS)
    for former in RESULTS.glob("*.md"):
        if former.name not in pages and former not in other_pages(RESULTS):
            former.unlink()
    for name, page in pages.items():
        write_atomic(RESULTS / name, page)
    plots = draw_plots(RESULTS)
    print(f"tables  {REPORT}, {README}\npages   {', '.join(pages)}")  # noqa: T201
    print(f"plots   {', '.join(map(str, plots)) or 'none'}")  # noqa: T201
    return 0


def rendered(text: str, results: Path) -> str:
    """`text` with every block between marks made anew of the lines in `results`.

    Raises:
        UserError: if a mark names nothing.
    """

    def block(match: re.Match[str]) -> str:
        content = block_text(match[2], results)
        if content is None:
            raise UserError(
                f"the mark results:{match[2]} names nothing; "
                f"expected one of {', '.join(block_names(results))}"
            )
        return f"{match[1]}{content}\n{match[3]}"

    return _BLOCK.sub(block, text)


def _parser() -> CommandParser:
    return CommandParser(prog="python training/report.py", description=__doc__)


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
