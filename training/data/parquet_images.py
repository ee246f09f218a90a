"""Pictures in parquet files, read row by row in the processes that decode (extra `parquet`).

A row group is read page by page, so that a process holds one page of it, however large it is. Most
programs write at most 1,024 rows to a page, `datasets` 100 to a row group. Images are decoded in
the order in which they lie there, so that each process reads a file about once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.base.errors import ImageError
from training.data.packed_image import PackedImage, check_size

_BATCH_ROWS = 16
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class ParquetImage(PackedImage):
    """The picture in row `row` of row group `group` of `file`; `column` holds its bytes.

    `number` is the row's place in the whole file. Where the cell has no bytes, the picture is the
    file `beside`, if there is one. It is None where all cells of the row group have bytes.
    """

    file: Path
    column: str
    group: int
    row: int
    number: int
    beside: Path | None = None

    @property
    def place(self) -> tuple[str, int]:
        return str(self.file), self.number

    @property
    def outside(self) -> Path | None:
        return self.beside

    def read(self) -> bytes:
        """The bytes of the picture's own file."""
        try:
            content = _cursor.value(self)
        except Exception as error:  # pyarrow has errors of many classes for damaged files
            _cursor.forget()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ImageError(f"{self.path}: cannot be read ({reason})") from error
        try:
            if content is None and self.beside is not None and self.beside.is_file():
                check_size(self.path, self.beside.stat().st_size)
                content = self.beside.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path}: cannot be read ({error.strerror})") from error
        if content is None:
            raise ImageError(f"{self.path}: the cell {self.column!r} holds no bytes")
        check_size(self.path, len(content))
        return content


class _Cursor:
    """The place in a parquet file up to which a process has read."""

    def __init__(self) -> None:
        self._at: tuple[Path, str, int] | None = None
        self._file: Any = None
        self._batches: Iterator[Any] = iter(())
        self._cells: Any = None
        self._first = 0

    def value(self, image: ParquetImage) -> bytes | None:
        """The bytes in the image's cell."""
        at = (image.file, image.column, image.group)
        if self._at != at or image.row < self._first:
            self._open(image)
            self._at = at
        while image.row >= self._first + len(self._cells):
            self._first += len(self._cells)
            self._cells = _cells(next(self._batches), image.column)
        found: bytes | None = self._cells[image.row - self._first].as_py()
        return found

    def forget(self) -> None:
        """Opens the file again the next time."""
        self._at = None

    def _open(self, image: ParquetImage) -> None:
        import pyarrow.parquet

        if self._file is not None:
            self._file.close()
        self._at = None
        self._file = pyarrow.parquet.ParquetFile(
            image.file, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        self._batches = self._file.iter_batches(
            _BATCH_ROWS, row_groups=[image.group], columns=[image.column], use_threads=False
        )
        self._cells, self._first = (), 0


_cursor = _Cursor()


def _cells(batch: Any, column: str) -> Any:
    """The cells of a column, which may be a field of a struct: `image.bytes`."""
    cells = batch.column(0)
    return cells.field(column.rpartition(".")[2]) if "." in column else cells
