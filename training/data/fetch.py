"""The files of a published data set: finds them where the user has them, or downloads them."""

import socket
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.files import cache_root
from training.data.loading_progress import report
from training.data.locks import locked

_TIMEOUT_SECONDS = 60.0
_DOWNLOAD_ERRORS = (OSError, RuntimeError, HTTPException, tarfile.TarError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Archive:
    """A publisher's archive. `into` is the folder that it is unpacked to."""

    url: str
    md5: str
    into: str = "."


@dataclass(frozen=True)
class Published:
    """How a data set is published.

    Attributes:
        url: where people can get it.
        folders: the names that its folder may have in a data root.
        is_complete: whether a folder holds the whole data set.
        download: makes the first of `folders` in the folder that it is given.
        installed: where a package of the system puts it, if there is one.
    """

    url: str
    folders: tuple[str, ...]
    is_complete: Callable[[Path], bool]
    download: Callable[[Path], None]
    installed: Path | None = None


def obtain(name: str, published: Published, data_root: Path | None) -> Path:
    """The folder with the files of the data set, which are downloaded if they are not found.

    Looks in `data_root` for the files themselves, or a folder with them. Without a data root it
    looks where the system's package puts them, and then in the cache.

    Raises:
        UserError: if the data root does not exist, or if the files are not found nor downloaded.
    """
    if data_root is not None and not data_root.is_dir():
        raise UserError(f"data root {data_root} is not a folder; make it or correct the path")
    root = cache_root() / "downloads" if data_root is None else data_root
    places = [root / folder for folder in (".", *published.folders)]
    if data_root is None and published.installed is not None:
        places.insert(0, published.installed)
    target = root / published.folders[0]
    found = _first_complete(places, published)
    if found is None:
        with locked(root / name):
            # Another process may have downloaded it while this one waited.
            found = _first_complete(places, published)
            if found is None:
                _download(name, published, root)
                found = target
    return found


def download_archives(*archives: Archive) -> Callable[[Path], None]:
    """A `Published.download` that fetches, checks and unpacks archives."""

    def download(folder: Path) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        for archive in archives:
            into = folder / archive.into
            download_and_extract_archive(
                archive.url, str(folder), str(into), md5=archive.md5, remove_finished=True
            )

    return download


def _first_complete(places: list[Path], published: Published) -> Path | None:
    return next((place for place in places if published.is_complete(place)), None)


def _download(name: str, published: Published, root: Path) -> None:
    """Downloads beside the target, so that a download that is interrupted is not used later."""
    target = root / Path(published.folders[0]).parts[0]
    if target.exists():
        raise UserError(
            f"{target} is not the whole of {name}; complete it from {published.url}, "
            "or remove it to download it again"
        )
    report(f"downloading {name} to {target}")
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root) as temporary:
        try:
            with _timeout(_TIMEOUT_SECONDS):
                published.download(Path(temporary))
        except _DOWNLOAD_ERRORS as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{name} is not in {root} and cannot be downloaded ({reason}); get it from "
                f"{published.url}, unpack it to {root / published.folders[0]} "
                "or name its folder with --data-root"
            ) from error
        made = Path(temporary) / published.folders[0]
        if not published.is_complete(made):
            raise UserError(f"{published.url} does not hold what was expected of {name}")
        (Path(temporary) / target.name).rename(target)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limits how long a download waits for an answer: urllib does not, and torchvision neither."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
