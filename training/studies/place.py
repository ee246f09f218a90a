"""A place where the runs of a study or a search go on: this machine, or a Ray cluster."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from training.config.options import Options
from training.data import data_names
from training.studies.study_run import StudyRun


class Place(Protocol):
    """Starts runs, says whether they have ended, and stops them.

    Attributes:
        usual_jobs: how many runs go on at a time where the user does not say it.
    """

    usual_jobs: int

    def start(self, run: StudyRun, jobs: int) -> None:
        """Starts the run, or goes on with it, with its share where `jobs` runs go on at a time.

        Raises:
            UserError: if it cannot go on there; the message says what would mend it.
        """

    def poll(self, run: StudyRun) -> int | None:
        """The exit code of a run that was started; None while it goes on. Does not wait."""

    def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
        """Asks the run to write a checkpoint and to end; with `at_once` ends it and waits."""

    def stand(self, run: StudyRun, *, still: bool) -> None:
        """Has the run stand still without giving up its memory, or go on."""


def whole_paths(options: Options) -> Options:
    """The options with absolute paths, so that they mean the same in every working folder."""
    return replace(
        options,
        data=options.data if options.data in data_names() else _whole(options.data),
        data_root=Path(_whole(options.data_root)) if options.data_root else None,
        recipe=_whole(options.recipe) if options.recipe else None,
        out=Path(_whole(options.out)) if options.out else None,
    )


def _whole(path: str | Path) -> str:
    return str(Path(path).expanduser().absolute())
