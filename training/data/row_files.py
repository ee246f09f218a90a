"""Files of the cache: rows of images, which are copied without mapping them, and packed paths."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_COPY_ROWS = 256


def copy_rows(images: NDArray[np.uint8], target: Path, rows: NDArray[np.int64]) -> None:
    """Writes the rows of an array, which may be a memory map, to a `.npy` file.

    They are written, not mapped: where the disk has no room for a mapped page, the system kills the
    process.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(images.dtype),
        "fortran_order": False,
        "shape": (len(rows), *images.shape[1:]),
    }
    with target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), _COPY_ROWS):
            file.write(images[rows[start : start + _COPY_ROWS]].tobytes())


def packed_paths(paths: Sequence[str]) -> bytes:
    """The paths in one file: the bytes of each, and a zero byte, which no path holds."""
    return b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)


def unpacked_paths(content: bytes) -> tuple[str, ...]:
    """The paths that `packed_paths` has packed."""
    return tuple(path.decode("utf-8", "surrogateescape") for path in content.split(b"\0")[:-1])
