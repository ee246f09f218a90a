"""What lies in an archive, read as the folders of a data set are: the layouts are the same.

A member's path is that of the archive, which goes on in it: `pets.zip/cat/1.jpg`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import ImageError, UserError
from runtime.images.image_formats import START_BYTES, format_of, is_read
from training.data.listing import Entry, FolderReader
from training.data.packed_image import PackedImage

_MAX_DEPTH = 64
_MAX_NAME = 4096


@dataclass
class _Entry:
    """A file or folder of an archive, as `os.DirEntry` describes one of the disk."""

    name: str
    path: str
    folder: dict[str, "_Entry"] | None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return self.folder is not None

    def is_symlink(self) -> bool:
        """Whether it is a link; there are none among the members."""
        return False


class Members(dict[Path, PackedImage]):
    """The files in an archive by their paths.

    Attributes:
        folders: those that the archive states, of which some may be empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folders: set[Path] = set()

    def add_folder(self, archive: Path, name: str) -> None:
        """Adds a folder that the archive states. `./` is the archive itself."""
        if name.strip("./\\"):
            self.folders.add(member_path(archive, name))


class ArchiveReader(FolderReader):
    """Reads the folders in an archive. They hold no links."""

    def __init__(self, archive: Path, members: Members) -> None:
        """Takes the files and folders of the archive by their paths.

        Raises:
            UserError: if a file has the path of a folder.
        """
        self._tree = _Entry(archive.name, str(archive), {})
        self._members = members
        for path in members:
            self._insert(path, archive)
        for path in sorted(members.folders):
            self._insert(path, archive, is_folder=True)
        super().__init__(archive)
        self._above = set()

    def has(self, path: Path) -> bool:
        """Whether there is a file of that path."""
        return path in self._members

    def _has(self, file: Path) -> bool:
        return self.has(file)

    def picture(self, path: Path) -> PackedImage:
        """The file of that path, as the picture that it may be."""
        return self._members[path]

    def path_of(self, file: Path) -> str:
        """The file's path in the archive, as text with "/"."""
        return file.relative_to(self._root).as_posix()

    def content(self, file: Path) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: if they cannot be read.
        """
        try:
            return self._members[file].read()
        except ImageError as error:
            raise UserError(str(error)) from error

    def _insert(self, path: Path, archive: Path, *, is_folder: bool = False) -> None:
        entry, parts = self._tree, path.relative_to(archive).parts
        for depth, name in enumerate(parts, start=1):
            last = depth == len(parts) and not is_folder
            if entry.folder is None or (last and name in entry.folder):
                raise UserError(f"{path} is a file and a folder of one name; pack them again")
            if name not in entry.folder:
                entry.folder[name] = _Entry(name, f"{entry.path}/{name}", None if last else {})
            entry = entry.folder[name]
        if is_folder and entry.folder is None:
            raise UserError(f"{path} is a file and a folder of one name; pack them again")

    def _entries(self, folder: Path) -> Iterable[Entry]:
        entry = self._tree
        for name in folder.relative_to(self._root).parts:
            entry = (entry.folder or {})[name]
        return list((entry.folder or {}).values())

    def _foreign_format(self, entry: Entry) -> str | None:
        try:
            start = self._members[Path(entry.path)].start(START_BYTES)
        except ImageError:
            return None  # decoding will name it
        return None if is_read(start) else format_of(start) or "unknown"

    def _identity(self, folder: Path) -> str:
        return str(folder)


def member_path(archive: Path, name: str) -> Path:
    r"""The path of a member of the archive. A `\` in the name is taken for `/`.

    Raises:
        UserError: if the name leads out of the archive, or is none.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name.startswith(("/", "\\")) or name[1:3] in (":/", ":\\")
    if absolute or ".." in parts:
        raise UserError(
            f"{archive} holds {name!r}, which leads out of it; pack the folder again, with names "
            "relative to it"
        )
    if not parts or len(parts) > _MAX_DEPTH or len(name) > _MAX_NAME or "\0" in name:
        raise UserError(
            f"{archive} holds {name[:80]!r}, which is no name of a file in at most {_MAX_DEPTH} "
            "folders; pack the folder again"
        )
    return archive.joinpath(*parts)
