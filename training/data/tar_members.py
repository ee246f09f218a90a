"""The files in a tar file, by their paths: where each one's bytes lie."""

import posixpath
import tarfile
from collections import Counter
from pathlib import Path

from runtime.base.errors import UserError
from runtime.images.image_folders import DEAD_LINK
from training.data.archive_members import Members, member_path
from training.data.loading_progress import report
from training.data.packed_image import TarImage
from training.data.source import DUPLICATE

_COMPRESSED = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"(\xb5": "zstd -d",
}


def tar_members(archive: Path, left_out: Counter[str]) -> Members:
    """The files of the archive, what its links lead to, and the folders that it states.

    The later file of a name counts.

    Raises:
        UserError: if it is no whole tar file, is compressed, or holds a name that leads out of it
            or a sparse file.
    """
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise UserError(
                f"{archive} is compressed as a whole, so that no image in it can be reached alone; "
                f"run `{command} {archive.name}`, and use the tar file that it makes"
            )
    members = Members()
    links: dict[Path, str] = {}
    doubled = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            while (info := tar.next()) is not None:
                # Of a million files these would take a gigabyte.
                tar.members = []  # type: ignore[attr-defined]
                doubled += _add(archive, info, links, members)
            _check_end(archive, tar.offset)
    except UserError:  # a ValueError, too
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(
            f"{archive} is no whole tar file ({error}); get it again, or pack it again"
        ) from error
    dead = _follow(archive, links, members)
    for reason, count, words in (
        (DEAD_LINK, dead, "links left out that lead to no file in it"),
        (DUPLICATE, doubled, "files left out that the tar file holds again under the same name"),
    ):
        if count:
            left_out[reason] += count
            report(f"{archive}: {count} {words}")
    return members


def _add(archive: Path, info: tarfile.TarInfo, links: dict[Path, str], members: Members) -> bool:
    """Adds one member. Returns whether it is a file that was there before.

    Raises:
        UserError: if it is a sparse file, or has a name that leads out of the archive.
    """
    if info.issym() or info.islnk():
        folder = posixpath.dirname(info.name) if info.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, info.linkname))
        links[member_path(archive, info.name)] = target
    elif info.isdir():
        members.add_folder(archive, info.name)
    elif info.issparse():
        raise UserError(
            f"{archive} holds {info.name!r} with its zeros left out, so that it does not lie there "
            "in one piece; pack the folder again without `tar --sparse`"
        )
    elif info.isfile():
        path = member_path(archive, info.name)
        doubled = path in members
        members[path] = TarImage(path, archive, info.offset_data, info.size)
        return doubled
    return False


def _check_end(archive: Path, offset: int) -> None:
    """Checks that the archive ends where its last file does.

    Raises:
        ValueError: if there is something else, such as the first part of a header.
    """
    with archive.open("rb") as file:
        file.seek(offset)
        rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
        raise ValueError(f"something else begins at byte {offset}")


def _follow(archive: Path, links: dict[Path, str], members: Members) -> int:
    """Adds what the links lead to. Returns the number of those that lead to no file."""
    dead = 0
    for path, target in links.items():
        found = None
        if not target.startswith(("/", "..")):
            found = members.get(archive / target)
        if isinstance(found, TarImage):
            members[path] = TarImage(path, archive, found.offset, found.size)
        else:
            dead += 1
    return dead
