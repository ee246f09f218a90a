"""Finds the images that a list names: beside it, or in folders beside it."""

import os.path
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from runtime.base.errors import UserError
from runtime.images.image_formats import SUFFIXES
from training.data.listing import FolderReader

_TRIED = 50  # rows that decide in which folders the images are
_MAX_NAME = 4096


class ListedImages:
    """The files that the rows of one list name.

    A name is a path relative to the list's folder, or an absolute one. Where none of some rows is
    found there, they are looked for in the folders beside the list: one holds all of them, or each
    holds a part. A folder with a part that those rows do not tell of is found by its first image.
    A name without an ending stands for the file of that name with an image's ending.

    Attributes:
        folder: the list's.
        bases: the folders that relative names are relative to.
    """

    def __init__(
        self,
        file: Path,
        reader: FolderReader,
        exists: Callable[[Path], bool] = Path.is_file,
        *,
        root: Path | None = None,
    ) -> None:
        """Prepares for the list `file`.

        Args:
            file: the list.
            reader: of the folder, or the archive, that the list lies in.
            exists: whether there is a file of that path.
            root: the folder that `path_of` is relative to; None: the list's.
        """
        self._root = file.parent if root is None else root
        self.folder = file.parent
        self.bases: tuple[Path, ...] = (file.parent,)
        self._file = file
        self._reader = reader
        self._exists = exists
        self._names: Sequence[str] = ()
        self._nowhere = 0
        self._most_nowhere = 0

    def choose_folders(self, names: Sequence[str]) -> None:
        """Chooses `bases`.

        Raises:
            UserError: if there is no way to tell.
        """
        named = [name for name in names if name]
        some = named[:: max(1, len(named) // _TRIED)][:_TRIED]
        # With more of them the list is refused, and the search of all folders for each can end.
        self._most_nowhere = max(1, len(named) // 100)
        self._names = named
        self._choose(some)

    def _choose(self, some: Sequence[str]) -> None:
        if not some or any(self._find(self.folder, name) for name in some):
            return
        folders = self._folders()
        places = {
            name: [below for below in folders if self._find(below, name) is not None]
            for name in some
        }
        counts = Counter(below for found in places.values() for below in found)
        if not counts:
            return
        most = max(counts.values())
        if most < sum(bool(found) for found in places.values()):  # each folder has a part of them
            for name, found in places.items():
                self._check_one(name, found)
            self.bases = tuple(below for below in folders if counts[below])
            return
        best = [below for below in folders if counts[below] == most]
        best = [below for below in best if below.name == self._file.stem] or best
        self._check_one(some[0], best)
        self.bases = (best[0],)

    def some_exist(self, names: Sequence[str]) -> bool:
        """Whether one of the first images is there."""
        try:
            self.choose_folders(names)
            return any(self.find(name) for name in names[:_TRIED])
        except UserError:
            return True  # in more than one folder

    def find(self, name: str, *, elsewhere: bool = True) -> Path | None:
        """The file that a name stands for; None if there is none.

        Args:
            name: a cell of the list.
            elsewhere: whether an image outside `bases` is looked for; its folder becomes one then.

        Raises:
            UserError: if it is in more than one folder.
        """
        files = self._in(self.bases, name)
        if not files and elsewhere and self._nowhere <= self._most_nowhere:
            found = self._in([each for each in self._others if each not in self.bases], name)
            files = {file: base for file, base in found.items() if self._is_a_part(base)}
            self.bases = (*self.bases, *files.values())
            self._nowhere += not files
        self._check_one(name, [*files.values()])
        return next(iter(files), None)

    def _in(self, bases: Sequence[Path], name: str) -> dict[Path, Path]:
        """The files that a name stands for, and the folder of each."""
        found = {base: self._find(base, name) for base in bases}
        return {file: base for base, file in found.items() if file is not None}

    @cached_property
    def _others(self) -> list[Path]:
        """The folders beside the list, and those in them; `bases` are among them."""
        beside = self._reader.folders_in(self.folder)
        return [*beside, *(below for folder in beside for below in self._reader.folders_in(folder))]

    def _is_a_part(self, folder: Path) -> bool:
        """Whether a folder holds images that `bases` lack, and none that they have.

        One with names that they have may hold masks, or smaller copies, of the images.
        """
        return not any(
            self._in([folder], name) and self._in(self.bases, name) for name in self._names
        )

    def find_anywhere(self, name: str) -> Path | None:
        """The first file that a name stands for beside the list, or in a folder beside it."""
        found = (self._find(folder, name) for folder in (*self.bases, *self._folders()))
        return next((file for file in found if file is not None), None)

    def path_of(self, file: Path) -> str:
        """The file's path relative to the data; an absolute one, if it lies elsewhere."""
        inside = file.is_relative_to(self._root)
        return (file.relative_to(self._root) if inside else file).as_posix()

    def _check_one(self, name: str, folders: Sequence[Path]) -> None:
        if len(folders) > 1:
            found = " and ".join(str(below.relative_to(self.folder)) for below in folders[:2])
            raise UserError(
                f"{self._file}: image {name!r} is in {found}; write the folder before the names"
            )

    def _folders(self) -> list[Path]:
        """The folders beside the list, and those in them."""
        beside = self._reader.listing(self.folder).folders
        return [*beside, *(below for folder in beside for below in self._listed(folder))]

    def _listed(self, folder: Path) -> list[Path]:
        return self._reader.listing(folder).folders

    def _find(self, base: Path, name: str) -> Path | None:
        if not name or "\0" in name or len(name) > _MAX_NAME:
            return None
        for written in _spellings(name):
            # Without "." and "..", so that one image has one path. A link is not resolved.
            path = Path(os.path.normpath(base / written))
            try:
                if self._exists(path):
                    return path
            except OSError:  # a part of the name is too long: there is no such file
                continue
        return None


def _spellings(name: str) -> Iterator[str]:
    """The name as it is, with other signs between folders, in other forms, with an ending."""
    written = [name]
    if "\\" in name:
        written.append(name.replace("\\", "/"))
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, written[-1])
        if other not in written:
            written.append(other)
    yield from written
    if not name.lower().endswith(SUFFIXES):
        for stem in written:
            for suffix in SUFFIXES:
                yield stem + suffix
                yield stem + suffix.upper()
