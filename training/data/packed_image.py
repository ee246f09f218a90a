"""Pictures inside of other files: where they are stored, and how their bytes are read there.

They are sent to the processes that decode, which open the file themselves, so only a few numbers
are sent. Nothing is unpacked to the disk.
"""

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import ImageError
from runtime.model.preprocess import DEFAULT_LIMITS

_LOCAL_HEADER = b"PK\3\4"
_LOCAL_HEADER_BYTES = 30
STORED, DEFLATED = 0, 8  # methods of compression in a zip file
_RAW = -15  # what zlib calls a stream without a header


@dataclass(frozen=True)
class PackedImage(ABC):
    """A picture inside of another file.

    Attributes:
        path: the path of that file, and in it the picture's. It names the picture, and nothing
            lies there on the disk.
    """

    path: Path

    @property
    @abstractmethod
    def place(self) -> tuple[str, int]:
        """Where it is stored. Pictures are read in this order, as they lie on the disk."""

    @property
    def outside(self) -> Path | None:
        """A file of its own that may have its bytes, instead of the archive; None: none has."""
        return None

    @abstractmethod
    def read(self) -> bytes:
        """The bytes of the picture's own file.

        Raises:
            ImageError: if they cannot be read; the message names the picture.
        """

    def start(self, length: int) -> bytes:
        """At most the first `length` of these bytes, which tell the format.

        Raises:
            ImageError: if they cannot be read.
        """
        return self.read()[:length]


@dataclass(frozen=True)
class TarImage(PackedImage):
    """A picture that lies in one piece in `archive`, from byte `offset` on."""

    archive: Path
    offset: int
    size: int

    @property
    def place(self) -> tuple[str, int]:
        return str(self.archive), self.offset

    def read(self) -> bytes:
        """The bytes of the picture's own file."""
        check_size(self.path, self.size)
        return read_piece(self, self.archive, self.offset, self.size)

    def start(self, length: int) -> bytes:
        """The first bytes of the picture's own file."""
        return read_piece(self, self.archive, self.offset, min(length, self.size))


@dataclass(frozen=True)
class ZipImage(PackedImage):
    """A member of the zip file `archive`, whose own header begins at byte `offset`.

    Its data are `size` bytes there, and `file_size` bytes of the checksum `crc` when inflated.
    """

    archive: Path
    offset: int
    method: int
    size: int
    file_size: int
    crc: int

    @property
    def place(self) -> tuple[str, int]:
        return str(self.archive), self.offset

    def read(self) -> bytes:
        """The bytes of the picture's own file."""
        check_size(self.path, self.file_size)
        check_size(self.path, self.size)
        # One byte more than is stated is enough to find a stream that is longer than it says.
        content = self._inflated(self.size, self.file_size + 1)
        if len(content) != self.file_size or zlib.crc32(content) != self.crc:
            raise ImageError(f"{self.path}: its data do not have the checksum that the zip states")
        return content

    def start(self, length: int) -> bytes:
        """The first bytes of the picture's own file."""
        return self._inflated(min(self.size, length), length)

    def _inflated(self, size: int, most: int) -> bytes:
        """What the first `size` bytes of the data give when inflated, and at most `most` bytes."""
        header = read_piece(self, self.archive, self.offset, _LOCAL_HEADER_BYTES)
        if not header.startswith(_LOCAL_HEADER):
            raise ImageError(f"{self.path}: the zip file has changed or is damaged; get it again")
        # The lengths of the name and of the extra field, which may differ from the directory's.
        skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        content = read_piece(self, self.archive, self.offset + _LOCAL_HEADER_BYTES + skipped, size)
        if self.method != DEFLATED:
            return content
        try:
            return zlib.decompressobj(_RAW).decompress(content, most)
        except zlib.error as error:
            raise ImageError(f"{self.path}: its compressed data are damaged") from error


def check_size(path: Path, size: int) -> None:
    """Checks that a picture of `size` bytes is read at all.

    Raises:
        ImageError: if it is larger than the decoder accepts.
    """
    if size > DEFAULT_LIMITS.max_bytes:
        raise ImageError(f"{path}: {size} bytes, the limit is {DEFAULT_LIMITS.max_bytes}")


def read_piece(image: PackedImage, archive: Path, offset: int, size: int) -> bytes:
    """`size` bytes of the archive from `offset` on.

    Raises:
        ImageError: if they cannot be read.
    """
    try:
        with archive.open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise ImageError(f"{image.path}: cannot be read ({error.strerror})") from error
    if len(content) != size:
        raise ImageError(f"{image.path}: its file ends before its data; get the file again")
    return content
