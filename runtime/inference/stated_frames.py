"""Whether a file states the number of its frames, and when its edit list shows the last one."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

_MP4 = (b"ftyp", b"moov", b"mdat", b"wide", b"free")  # the first box of an MP4 or MOV file
_HEAD = 16  # bytes of the longest head of a box


def states_number(path: Path) -> bool:
    """Whether a file states how many frames it has: AVI, MP4 and MOV do.

    Of other files OpenCV computes the number from the duration, which may be that of the sound.
    """
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:  # an address
        return False
    return start[8:] == b"AVI " or start[4:8] in _MP4


def last_shown_at(path: Path) -> float | None:
    """When the edit list of an MP4 or MOV file shows the last picture, s; None if it hides none.

    Trimming without encoding keeps frames that are not shown, and the stated number counts them.
    Boxes are those of ISO/IEC 14496-12.
    """
    try:
        movie = _movie(path)
        for kind, track in _boxes(movie):
            if kind == b"trak" and _box(track, b"mdia", b"hdlr")[8:12] == b"vide":
                tick, _ = _tick_and_seconds(_box(movie, b"mvhd"))
                media_tick, all_seconds = _tick_and_seconds(_box(track, b"mdia", b"mdhd"))
                edits = _edits(_box(track, b"edts", b"elst"))
                shown = tick * sum(duration for duration, _ in edits)
                if not 0 < shown < all_seconds - tick:
                    return None
                duration, start = edits[-1]
                end = start * media_tick + duration * tick
                table = _box(track, b"mdia", b"minf", b"stbl")
                return shown - end + media_tick * _last_below(end / media_tick, table)
    except (OSError, struct.error, ZeroDivisionError):  # an address, or boxes that are damaged
        pass
    return None


def _movie(path: Path) -> bytes:
    """The content of the box `moov`; empty if there is none."""
    length = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place < length:
            file.seek(place)
            kind, head, size = _box_head(file.read(_HEAD))
            if kind == b"moov":
                file.seek(place + head)
                return file.read(min(size, length - place) - head)
            place += size
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box."""
    place = 0
    while place < len(content):
        kind, head, size = _box_head(content[place : place + _HEAD])
        yield kind, content[place + head : place + size]
        place += size


def _box_head(start: bytes) -> tuple[bytes, int, int]:
    """Kind of a box, length of its head, and its whole length."""
    size, kind = struct.unpack_from(">I4s", start)
    head = 8
    if size == 1:
        (size,) = struct.unpack_from(">Q", start, 8)
        head = 16
    if size < head:  # 0 means that the box is the last one
        raise struct.error(f"a box of {size} bytes")
    return kind, head, size


def _box(content: bytes, *kinds: bytes) -> bytes:
    """The content of the first box of a kind, of the first one in it, and so on; else empty."""
    for kind in kinds:
        content = next((inner for found, inner in _boxes(content) if found == kind), b"")
    return content


def _tick_and_seconds(header: bytes) -> tuple[float, float]:
    """Seconds of a tick, and the duration, of a box `mvhd` or `mdhd`."""
    ticks, duration = struct.unpack_from(">20xIQ" if header[:1] == b"\1" else ">12xII", header)
    return 1 / ticks, duration / ticks


def _edits(edits: bytes) -> list[tuple[int, int]]:
    """Duration and start of each edit that shows something."""
    if not edits:
        return []
    (number,) = struct.unpack_from(">4xI", edits)
    form = struct.Struct(">Qq4x" if edits[:1] == b"\1" else ">Ii4x")
    entries = form.iter_unpack(edits[8 : 8 + form.size * number])
    return [(duration, start) for duration, start in entries if start >= 0]


def _last_below(end: float, table: bytes) -> int:
    """When the last sample before `end` comes, by a box `stbl`; in ticks of the media."""
    offsets = _box(table, b"ctts")  # from decoding to showing, about the same for all
    time = last = struct.unpack_from(">12xi", offsets)[0] if offsets else 0
    durations = _box(table, b"stts")
    (number,) = struct.unpack_from(">4xI", durations)
    for count, duration in struct.iter_unpack(">II", durations[8 : 8 + 8 * number]):
        if count and time < end:
            before = math.ceil((end - time) / duration) if duration else count
            last = time + (min(count, before) - 1) * duration
        time += count * duration
    return last
