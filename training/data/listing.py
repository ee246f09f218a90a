"""What lies in a user's folders: images and folders, without what systems keep there.

Links are followed, to files and to folders. A link that leads back to a folder above it is left
out, because it would never end. A folder that is reached twice is read once.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtime.base.errors import UserError
from runtime.model.preprocess import SUFFIXES
from training.data.loading_progress import report
from training.data.source import DEAD_LINK, HIDDEN, NOT_AN_IMAGE, OF_THE_SYSTEM, READ_ALREADY

_SYSTEM_FOLDERS = {
    "@eadir",  # Synology: thumbnails
    "#recycle",
    "#snapshot",
    "@recycle",  # QNAP
    "@recently-snapshot",
    "@__thumb",
    "__macosx",  # zip files made on a Mac
    "network trash folder",
    "temporary items",
    "lost+found",  # Linux: it holds what a check of the disk has found, and only root may list it
    "$recycle.bin",  # Windows
    "recycler",
    "found.000",
    "system volume information",
    "__pycache__",
}
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"}
_MAX_NAMED = 5

_Identity = tuple[int, int] | str


def is_of_the_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or kept by a system for itself."""
    folded = name.casefold()
    return name.startswith(".") or folded in _SYSTEM_FOLDERS or folded in _SYSTEM_FILES


@dataclass
class Listing:
    """What one folder holds.

    Attributes:
        folders: sorted, links to folders among them.
        images: files whose names end like an image's, sorted.
        others: how many other files there are.
    """

    folders: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    others: int = 0


class Entry(Protocol):
    """A file or folder in a folder: what `os.DirEntry` says of it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_symlink(self) -> bool: ...


class FolderReader:
    """Reads the folders of one data set, and remembers what it has left out.

    Those of an archive are read in the same way: it says itself what lies in its folders.

    Attributes:
        left_out: how many files and folders, for each reason. Those that `report` has told, too.
    """

    def __init__(self, root: Path) -> None:
        self.left_out: Counter[str] = Counter()
        self._root = root
        self._above = {self._identity(folder) for folder in (root, *root.resolve().parents)}
        self._class_of: dict[_Identity, tuple[Path, Path]] = {}  # the class, and the folder itself
        self._system_folders: Counter[str] = Counter()
        self._dead_links: set[Path] = set()
        self._repeated: set[Path] = set()
        self._others = 0
        self._listed: dict[Path, Listing] = {}

    def listing(self, folder: Path) -> Listing:
        """What lies directly in `folder`.

        Raises:
            UserError: if the folder cannot be listed.
        """
        if folder in self._listed:
            return self._listed[folder]
        listing = self._listed[folder] = Listing()
        try:
            for entry in self._entries(folder):
                self._add(listing, entry)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be listed ({error.strerror}); "
                "change its permissions, or move it out of the data"
            ) from error
        listing.folders.sort()
        listing.images.sort()
        return listing

    def images_below(self, folder: Path) -> list[tuple[Path, list[Path]]]:
        """Each folder from the class folder `folder` on, and the images that lie directly in it.

        Raises:
            UserError: if a folder cannot be listed, or belongs to another class, too.
        """
        found: list[tuple[Path, list[Path]]] = []
        above = self._above | {
            self._identity(parent) for parent in folder.parents if parent.is_relative_to(self._root)
        }
        self._read(folder, folder, above, found)
        return found

    def report(self) -> None:
        """Says what was left out, in a line for each reason, and forgets it."""
        if self._others:
            report(
                f"{self._root}: {self._others} files ignored, "
                f"they do not end in {', '.join(SUFFIXES)}"
            )
        for paths, words in (
            (self._dead_links, "links that lead nowhere"),
            (self._repeated, "linked folders that were read already, or would lead to themselves"),
        ):
            if paths:
                report(
                    f"{self._root}: left out {len(paths)} {words} ({_some(self._within(paths))})"
                )
        if self._system_folders:
            count, names = self._system_folders.total(), _some(sorted(self._system_folders))
            report(f"{self._root}: left out {count} folders of the system ({names})")
        self._system_folders.clear()
        self._dead_links.clear()
        self._repeated.clear()
        self._others = 0

    def _entries(self, folder: Path) -> Iterable[Entry]:
        with os.scandir(folder) as entries:
            return list(entries)

    def _identity(self, folder: Path) -> _Identity:
        """What two paths of one folder have in common."""
        state = folder.stat()  # some file systems do not number their files
        return (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(folder)

    def _is_image(self, entry: Entry) -> bool:
        return entry.name.lower().endswith(SUFFIXES)

    def _add(self, listing: Listing, entry: Entry) -> None:
        path = Path(entry.path)
        if is_of_the_system(entry.name):
            self.left_out[HIDDEN if entry.name.startswith(".") else OF_THE_SYSTEM] += 1
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                self._system_folders[entry.name] += 1
        elif _is_folder(path, entry):
            listing.folders.append(path)
        elif self._is_image(entry):
            listing.images.append(path)
        elif entry.is_symlink() and not path.exists():
            self.left_out[DEAD_LINK] += 1
            self._dead_links.add(path)
        else:
            listing.others += 1

    def _read(
        self,
        folder: Path,
        of_class: Path,
        above: set[_Identity],
        found: list[tuple[Path, list[Path]]],
    ) -> None:
        identity = self._identity(folder)
        if identity in above:
            self.left_out[READ_ALREADY] += 1
            self._repeated.add(folder)
            return
        former_class, former = self._class_of.setdefault(identity, (of_class, folder))
        if former_class != of_class:
            raise UserError(
                f"{folder} and {former} are one folder, by a link: its images would be in "
                f"{of_class} and in {former_class}; remove one of the two"
            )
        if former != folder:
            self.left_out[READ_ALREADY] += 1
            self._repeated.add(folder)
            return
        listing = self.listing(folder)
        self._others += listing.others
        self.left_out[NOT_AN_IMAGE] += listing.others
        found.append((folder, listing.images))
        for below in listing.folders:
            self._read(below, of_class, above | {identity}, found)

    def _within(self, paths: set[Path]) -> list[str]:
        return [str(path.relative_to(self._root)) for path in sorted(paths)]


def _is_folder(path: Path, entry: Entry) -> bool:
    """Also of a link to a folder. A link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        if not entry.is_symlink() or path.exists():
            raise
        return False


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
