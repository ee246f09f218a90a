"""Lines that are in `results/` stay: others of the same runs are compared with them."""

from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import UserError
from training.studies.result_lines import (
    IDENTITY,
    Line,
    fit_of,
    identity_of,
    merge_lines,
    read_lines,
    refuse_other_data,
)

# What may differ between two lines of one run: its time, machine, code and words.
_NO_FIGURES = {"seconds", "images_per_second", "device", "precision", "versions"}
_NO_FIGURES |= {"commit", "command", "recipe", "processes", "checkpoint_sha256"}


def former_line(lines: Sequence[Line], line: Line) -> Line | None:
    """The one of `lines` that is of the same run; None if there is none."""
    own = identity_of(line)
    return next((former for former in lines if identity_of(former) == own), None)


def differing_figures(former: Line, line: Line) -> list[str]:
    """The names of what differs between two lines of a run: figures, or the record of its images.

    A name that only one of them has is of another version, and does not count.
    """
    names = (former.keys() & line.keys()) - _NO_FIGURES
    return sorted(name for name in names if former[name] != line[name])


def add_lines(file: Path, results: Path) -> tuple[int, int]:
    """Adds the lines of `file` to the file of that name in `results`.

    Returns:
        How many were added, and how many were there.

    Raises:
        UserError: if it cannot be read, has a line that is none of a run, has one that differs from
            the line of the same run, or is of other images. Nothing is added then.
    """
    if not file.is_file():
        raise UserError(f"{file} is not a file; name one of the lines that a clone has made")
    here, new, there = results / file.name, list[Line](), 0
    kept = read_lines(here)
    for number, line in enumerate(read_lines(file), start=1):
        if missing := [key for key in (*IDENTITY, "terms", "recipe") if key not in line]:
            raise UserError(
                f"{file}: line {number} has no {missing[0]}; expected lines of runs, one each"
            )
        refuse_other_data(
            kept,
            here,
            line["data"],
            line.get("content_digest"),
            image_size=line["image_size"],
            fit=fit_of(line),
        )
        former = former_line(kept, line)
        if former is None:
            new.append(line)
            continue
        if names := differing_figures(former, line):
            raise UserError(
                f"{file}: line {number} ({line['method']}, {line['arch']}, seed {line['seed']}) is "
                f"not that of the same run in {here}: {', '.join(names)} differ; a line that is "
                "there stays; take the other one out of the file"
            )
        there += 1
    if new:
        merge_lines(here, new)
    return len(new), there
