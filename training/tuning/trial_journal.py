"""`trials.journal`: what Optuna keeps of a search, also after a write that was cut off."""

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STORAGE = "trials.journal"


def open_trials(folder: Path) -> JournalStorage:
    """The storage of the search in `folder`, which no other process uses."""
    path = folder / STORAGE
    _cut_broken_line(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _cut_broken_line(path: Path) -> None:
    """Removes the start of a line at the end, as a full disk or a loss of power leaves it.

    Optuna would append the next line to it, and could then read neither.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
