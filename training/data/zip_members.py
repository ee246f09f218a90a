"""The files in a zip file, by their paths. None is unpacked to the disk."""

import stat
import zipfile
from collections import Counter
from pathlib import Path

from runtime.base.errors import UserError
from runtime.images.image_folders import DEAD_LINK
from training.data.archive_members import Members, member_path
from training.data.loading_progress import report
from training.data.packed_image import DEFLATED, STORED, ZipImage
from training.data.source import DUPLICATE

_ENCRYPTED = 0x1
_NAME_IS_UTF8 = 0x800


def zip_members(archive: Path, left_out: Counter[str]) -> Members:
    """The files of the archive, and the folders that it states.

    A name that is not marked as UTF-8 is taken for UTF-8 nevertheless where it can be; otherwise
    its bytes are kept, as those of a file's name on the disk are. Of two members of one name the
    later one counts, as it does when a zip file is unpacked.

    Raises:
        UserError: if it is no zip file, is encrypted or compressed in a way that is not read here,
            or holds a name that leads out of it.
    """
    members = Members()
    links = doubled = 0
    for info in _directory(archive):
        name = _name_of(info)
        if name.endswith(("/", "\\")):
            members.add_folder(archive, name)
            continue
        path = member_path(archive, name)
        if info.flag_bits & _ENCRYPTED:
            raise UserError(
                f"{path} is encrypted; unpack the zip file with its password, and use the folder"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            links += 1
            continue
        if info.compress_type not in (STORED, DEFLATED):
            raise UserError(
                f"{path} is compressed by method {info.compress_type}; expected {DEFLATED} "
                f"(deflate) or {STORED} (none): unpack the zip file, or pack it again"
            )
        doubled += path in members
        members[path] = ZipImage(
            path,
            archive,
            offset=info.header_offset,
            method=info.compress_type,
            size=info.compress_size,
            file_size=info.file_size,
            crc=info.CRC,
        )
    for reason, count, words in (
        (DEAD_LINK, links, "links left out; zip follows them unless it is called with -y"),
        (DUPLICATE, doubled, "files left out that the zip file holds again under the same name"),
    ):
        if count:
            left_out[reason] += count
            report(f"{archive}: {count} {words}")
    return members


def _directory(archive: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{archive} is no whole zip file ({error}); get it again, or unpack it"
        ) from error


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name; bytes that are no UTF-8 are surrogates, as `os.fsdecode` gives them."""
    name = info.orig_filename.partition("\0")[0]
    if info.flag_bits & _NAME_IS_UTF8:
        return name
    # Python reads it as the code page 437 of MS-DOS, which gives every byte a character.
    return name.encode("cp437").decode("utf-8", "surrogateescape")
