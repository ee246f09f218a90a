"""Data in archives and tables that were read before: their splits need not be read again.

The index of 200,000 pictures in shards takes a minute to read, and a run needs none of it where the
cache holds what was decoded. So the name and the fingerprint of such data are kept, with the state
of each file and folder that they come from: its size, inode, and times of modification and of the
last change of state, of which no program can set the latter.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from runtime.base.files import cache_root, write_atomic
from runtime.images import image_folders, image_formats
from training.data.loading_progress import recorded, report
from training.data.packed_image import PackedImage
from training.data.source import Contents, Source, splits_of

_FOLDER = "sources"
# A file that changes while it is read must not look like the one that was read. Clocks of file
# systems tick every few milliseconds.
_OLD_ENOUGH_NS = 100_000_000
_ABSENT = (-1, -1, -1, -1)


class _Known(msgspec.Struct, frozen=True):
    """A source; names are bytes, which need not be UTF-8. `said` was told when it was read."""

    name: str
    fingerprint: str
    left_out: dict[str, int]
    files: list[bytes]
    folders: list[bytes]
    states: list[tuple[int, int, int, int]]
    said: list[str]
    warnings: list[str]


def known_source(
    path: Path, facts: str, read: Callable[[], Source], *, refresh: bool = False
) -> Source:
    """The data at `path`, from what is known of them, or read anew.

    Args:
        path: of a folder, a file, or a pattern that stands for several files.
        facts: all that decides what is read, beside the files.
        read: reads them.
        refresh: whether to read them in any case.
    """
    digest = hashlib.sha256(os.fsencode(path.absolute()))
    digest.update(f"\0{facts}\0{_reading_code()}".encode("utf-8", "surrogateescape"))
    file = cache_root() / _FOLDER / f"{digest.hexdigest()[:32]}.msgpack"
    known = None if refresh else _kept_in(file)
    if known is not None:
        for line in known.said:
            report(line)
        files = tuple(Path(os.fsdecode(name)) for name in known.files)
        return Source(
            known.name,
            known.fingerprint,
            _again(read),
            known.left_out,
            files,
            warnings=tuple(known.warnings),
        )
    start = time.time_ns()
    with recorded() as said:
        source = read()
    with contextlib.suppress(OSError):  # without it, the data are read again the next time
        _keep(file, path, source, said, start)
    return source


def _again(read: Callable[[], Source]) -> Callable[[], Contents]:
    def contents() -> Contents:
        with recorded(aloud=False):  # it was said already
            return read().read()

    return contents


def _kept_in(file: Path) -> _Known | None:
    """What the file knows, if no file and no folder of the data has changed since."""
    try:
        known = msgspec.msgpack.decode(file.read_bytes(), type=_Known)
    except (OSError, ValueError):  # msgspec.DecodeError is a ValueError
        return None
    return known if _states([*known.files, *known.folders]) == known.states else None


def _keep(file: Path, path: Path, source: Source, said: list[str], start: int) -> None:
    """Keeps a source whose pictures all lie inside of its files, and that is not changing now."""
    pictures = (picture for split in splits_of(source.read()) for picture in split.images)
    if not all(isinstance(picture, PackedImage) for picture in pictures):
        return
    folders = list(_folders_below(path)) if path.is_dir() else []
    if any(folder.is_symlink() for folder in folders):
        return  # it may lead anywhere
    names = [os.fsencode(place) for place in (*source.files, *folders)]
    states = _states(names)
    if any(max(state[1:3]) >= start - _OLD_ENOUGH_NS for state in states):
        return
    count = len(source.files)
    known = _Known(
        name=source.name,
        fingerprint=source.fingerprint,
        left_out=dict(source.left_out),
        files=names[:count],
        folders=names[count:],
        states=states,
        said=said,
        warnings=list(source.warnings),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, msgspec.msgpack.encode(known))


def _folders_below(root: Path) -> Iterator[Path]:
    yield root
    for folder, below, _ in os.walk(root):
        yield from (Path(folder, name) for name in below)


def _states(names: Sequence[bytes]) -> list[tuple[int, int, int, int]]:
    """Size, times of modification and of change, and inode, of each file or folder."""
    states = []
    for name in names:
        try:
            found = os.stat(name)  # noqa: PTH116 - a name of bytes
        except OSError:
            states.append(_ABSENT)
            continue
        states.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return states


def _reading_code() -> str:
    """A digest of the text of the code that reads data."""
    digest = hashlib.sha256()
    modules = (Path(module.__file__ or "") for module in (image_folders, image_formats))
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *modules):
        digest.update(file.read_bytes())
    return digest.hexdigest()
