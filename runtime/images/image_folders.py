"""What lies in a user's folders: images and folders, without what systems keep there.

Training and `classify` read folders by these rules. Links are followed, to files and to folders. A
link that leads back to a folder above it is left out, because it would never end. A folder that is
reached twice is read once.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtime.base.errors import UserError
from runtime.images.image_formats import SUFFIXES, foreign_format

# Why files and folders are not used: the words of every count.
NOT_AN_IMAGE = "not an image"
HIDDEN = "hidden"
OF_THE_SYSTEM = "system file or folder"
DEAD_LINK = "link that leads nowhere"
READ_ALREADY = "folder read already"
OF_RUNS = "folder of training runs"

# What training has written, which is no data though its plots are images. `runtime.model.locate`,
# which lies above this room, has the same names.
_RUNS, _CHECKPOINT, _JOURNAL, _RESULT = "runs", "checkpoint.pt", "journal.jsonl", "result.json"
_LOCK = ".lock"  # of a run or study that has just begun
_DEPTH_OF_RUNS = 3  # runs/studies/NAME/RUN

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

Identity = tuple[int, int] | str


def is_of_the_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or kept by a system for itself."""
    folded = name.casefold()
    return name.startswith(".") or folded in _SYSTEM_FOLDERS or folded in _SYSTEM_FILES


def is_run(folder: Path, has: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether training has written the folder; a checkpoint alone may be somebody's weights.

    `has` says whether there is a file of a path.
    """
    return has(folder / _CHECKPOINT) and has(folder / _JOURNAL)


@dataclass
class Listing:
    """What one folder holds.

    Attributes:
        folders: sorted, links to folders among them.
        images: files that are images by their name's end or by their content, sorted.
        others: how many other files there are, for each format.
    """

    folders: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


class Entry(Protocol):
    """A file or folder in a folder: what `os.DirEntry` says of it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_symlink(self) -> bool: ...


class ImageFolders:
    """Reads the folders below one root, and remembers what it has left out.

    Those of an archive are read in the same way: it says itself what lies in its folders.

    Attributes:
        left_out: how many files and folders, for each reason.
        others: how many files are no images, for each format.
        system_folders: how many folders of systems, for each name.
        dead_links: the links that lead nowhere.
        run_folders: those that training has written its runs to.
        repeated: the linked folders that were read already, or would lead to themselves.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.left_out: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.system_folders: Counter[str] = Counter()
        self.dead_links: set[Path] = set()
        self.repeated: set[Path] = set()
        self.run_folders: set[Path] = set()
        self._above = {self._identity(folder) for folder in (root, *root.resolve().parents)}
        self._read_before: dict[Identity, Path] = {}
        self._asked = root
        self._asked_for: dict[Identity, Path] = {}
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
            raise _unlisted(folder, error) from error
        listing.folders.sort()
        listing.images.sort()
        return listing

    def images_below(self, folder: Path) -> list[tuple[Path, list[Path]]]:
        """Each folder from `folder` on, and the images that lie directly in it.

        It is called for each class folder, or for the root alone: a folder belongs to one of them.

        Raises:
            UserError: if a folder cannot be listed, or was read below another class folder.
        """
        self._asked = folder
        found: list[tuple[Path, list[Path]]] = []
        parents = [parent for parent in folder.parents if parent.is_relative_to(self._root)]
        # The root itself is read, too, where it is the folder that is asked for.
        above = self._above - {self._identity(folder)} if folder == self._root else self._above
        self._read(folder, above | {self._identity(parent) for parent in parents}, found)
        return found

    def _is_read(self, folder: Path, identity: Identity) -> bool:
        """Whether `folder` was read before, by another path; if not, it is read now.

        Raises:
            UserError: if it was read for another class.
        """
        former = self._read_before.setdefault(identity, folder)
        former_asked = self._asked_for.setdefault(identity, self._asked)
        if former_asked != self._asked:
            raise UserError(
                f"{folder} and {former} are one folder, by a link: its images would be in "
                f"{self._asked} and in {former_asked}; remove one of the two"
            )
        return former != folder

    def _entries(self, folder: Path) -> Iterable[Entry]:
        with os.scandir(folder) as entries:
            return list(entries)

    def _identity(self, folder: Path) -> Identity:
        """What two paths of one folder have in common."""
        state = folder.stat()  # some file systems do not number their files
        return (state.st_dev, state.st_ino) if state.st_ino else os.path.realpath(folder)

    def _foreign_format(self, entry: Entry) -> str | None:
        """The format of a file without an image's suffix; None if it is an image nevertheless."""
        path = Path(entry.path)
        # Only files are opened: opening a pipe would wait for its other end.
        return foreign_format(path) if path.is_file() else "no file"

    def _add(self, listing: Listing, entry: Entry) -> None:
        path = Path(entry.path)
        if is_of_the_system(entry.name):
            self.left_out[HIDDEN if entry.name.startswith(".") else OF_THE_SYSTEM] += 1
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                self.system_folders[entry.name] += 1
        elif _is_folder(path, entry):
            if self._is_of_runs(path):
                self.left_out[OF_RUNS] += 1
                self.run_folders.add(path)
            else:
                listing.folders.append(path)
        elif entry.name.lower().endswith(SUFFIXES):
            listing.images.append(path)  # if it is none, decoding says so by its name
        elif entry.is_symlink() and not path.exists():
            self.left_out[DEAD_LINK] += 1
            self.dead_links.add(path)
        else:
            foreign = self._foreign_format(entry)
            if foreign is None:
                listing.images.append(path)
            else:
                listing.others[foreign] += 1

    def _has(self, file: Path) -> bool:
        """Whether there is a file of that path."""
        try:
            return file.is_file()
        except OSError:  # a folder that may not be looked into is named when it is listed
            return False

    def _is_of_runs(self, folder: Path) -> bool:
        """Whether training has written the folder: a run, or `runs`, which holds some."""
        if is_run(folder, self._has):
            return True
        return folder.name == _RUNS and self._holds_runs(folder, _DEPTH_OF_RUNS)

    def _holds_runs(self, folder: Path, depth: int) -> bool:
        try:
            entries = self._entries(folder)
        except OSError as error:
            raise _unlisted(folder, error) from error
        below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        return any(
            any(self._has(path / name) for name in (_CHECKPOINT, _RESULT, _LOCK))
            or (depth > 1 and self._holds_runs(path, depth - 1))
            for path in below
        )

    def _read(
        self, folder: Path, above: set[Identity], found: list[tuple[Path, list[Path]]]
    ) -> None:
        try:
            identity = self._identity(folder)
        except OSError as error:
            raise _unlisted(folder, error) from error
        if identity in above or self._is_read(folder, identity):
            self.left_out[READ_ALREADY] += 1
            self.repeated.add(folder)
            return
        listing = self.listing(folder)
        self.others += listing.others
        self.left_out[NOT_AN_IMAGE] += listing.others.total()
        found.append((folder, listing.images))
        for below in listing.folders:
            self._read(below, above | {identity}, found)


def in_words(counts: Mapping[str, int]) -> str:
    """How many of each, most of them first: "hidden 2, not an image 1"; "" if there are none."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{word} {count}" for word, count in ordered if count)


def in_order(parts: Iterable[tuple[Path, list[Path]]]) -> list[Path]:
    """The images of all folders, in the order of their paths."""
    return sorted(image for _, images in parts for image in images)


def _unlisted(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be listed ({error.strerror}); "
        "change its permissions, or move it out of the data"
    )


def _is_folder(path: Path, entry: Entry) -> bool:
    """Also of a link to a folder. A link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        if not entry.is_symlink() or path.exists():
            raise
        return False
