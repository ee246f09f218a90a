"""What travels to a machine with a GPU and back: files in parts of a given size, with checksums.

A machine that is lent for minutes often takes and gives back small files only. Pictures travel as
lossless WebP (104 MB for CIFAR-100 instead of 184), trained runs as a tar file.
"""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.base.errors import UserError
from runtime.base.files import write_atomic

_SPLITS = ("train", "test")
_MANIFEST = ".parts.json"
_HEAD = 3 * tarfile.BLOCKSIZE  # of a file in a tar file whose path is longer than 100 characters
# Of WebP: a sixth of the time of the best ones, and no larger (measured on 200 images).
_EFFORT = {"lossless": True, "method": 1, "quality": 20}


class Manifest(msgspec.Struct):
    """How many parts a file has, and the SHA-256 of each and of the whole."""

    whole: str
    parts: list[str]


def split(content: bytes, folder: Path, name: str, *, most_bytes: int) -> list[Path]:
    """Writes NAME.parts.json, and NAME.000 and so on of at most `most_bytes`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for former in folder.glob(f"{name}.*"):
        former.unlink()
    pieces = [content[start : start + most_bytes] for start in range(0, len(content), most_bytes)]
    paths = [folder / f"{name}.{number:03}" for number in range(len(pieces))]
    for path, piece in zip(paths, pieces, strict=True):
        write_atomic(path, piece)
    manifest = Manifest(_digest(content), [_digest(piece) for piece in pieces])
    path = folder / f"{name}{_MANIFEST}"
    write_atomic(path, msgspec.json.encode(manifest))
    return [path, *paths]


def split_into_folders(
    content: bytes, to: Path, name: str, *, before: str, most_bytes: int
) -> None:
    """Writes the content in parts, each with the manifest in a folder that may travel alone.

    Args:
        content: nothing, b"", removes what was written before.
        to: where the folders come to lie: `before` and a number.
        name: of the content.
        before: of the folders' names.
        most_bytes: of a part.
    """
    to.mkdir(parents=True, exist_ok=True)
    for former in [path.parent for path in to.glob(f"*/{name}{_MANIFEST}")]:
        shutil.rmtree(former)
    if not content:
        return
    whole = to / "all"
    manifest, *pieces = split(content, whole, name, most_bytes=most_bytes)
    for number, piece in enumerate(pieces, start=1):
        folder = to / f"{before}{number}"
        folder.mkdir()
        shutil.copyfile(manifest, folder / manifest.name)
        moved = piece.replace(folder / piece.name)
        print(f"{folder}  {piece.name}, {moved.stat().st_size / 1e6:.1f} MB")
    shutil.rmtree(whole)


def receive(folder: Path, kept: Path, name: str) -> bool:
    """Copies what came of `name` in `folder` to those parts that are kept; whether anything came.

    Where another manifest comes, parts of an earlier content that it does not have are removed.
    """
    files = sorted(folder.glob(f"{name}.*"))
    for manifest in folder.glob(f"{name}{_MANIFEST}"):
        wanted = msgspec.json.decode(manifest.read_bytes(), type=Manifest)
        names = {f"{name}.{number:03}": digest for number, digest in enumerate(wanted.parts)}
        for former in kept.glob(f"{name}.[0-9]*"):
            if names.get(former.name) != _digest(former.read_bytes()):
                former.unlink()
    for file in files:
        shutil.copyfile(file, kept / file.name)
    return bool(files)


def missing_parts(folder: Path, name: str) -> list[str]:
    """The files of the parts of `name` that its manifest has and the folder does not."""
    path = folder / f"{name}{_MANIFEST}"
    if not path.exists():
        return [path.name]
    parts = msgspec.json.decode(path.read_bytes(), type=Manifest).parts
    names = [f"{name}.{number:03}" for number in range(len(parts))]
    return [each for each in names if not (folder / each).exists()]


def join(folders: Iterable[Path], name: str) -> bytes:
    """The content that `split` wrote as `name`; its parts may lie in several folders.

    Raises:
        UserError: if a part is missing, or one is damaged.
    """
    folders = list(folders)
    where = ", ".join(map(str, folders))
    path = _found(folders, f"{name}{_MANIFEST}", where)
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    content = io.BytesIO()
    for number, digest in enumerate(manifest.parts):
        part = _found(folders, f"{name}.{number:03}", where).read_bytes()
        if _digest(part) != digest:
            raise UserError(f"part {number} of {name} in {where} is damaged; carry it again")
        content.write(part)
    if _digest(content.getvalue()) != manifest.whole:
        raise UserError(f"{name} in {where} is put together wrongly; make its parts again")
    return content.getvalue()


def pack_pictures(data: Path) -> bytes:
    """The arrays of a data folder, pictures as WebP without loss.

    Args:
        data: with `{train,test}_{images,labels}.npy` (uint8 NHWC, int64) and `classes.txt`.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for which in _SPLITS:
        images = np.load(data / f"{which}_images.npy")
        encoded = [_encoded(image) for image in images]
        arrays[f"{which}_bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{which}_sizes"] = np.array([len(each) for each in encoded], np.uint32)
        arrays[f"{which}_labels"] = np.load(data / f"{which}_labels.npy")
        arrays[f"{which}_digest"] = np.array(_digest(images.tobytes()))
    arrays["classes"] = np.array((data / "classes.txt").read_text(encoding="utf-8"))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_pictures(content: bytes, to: Path) -> None:
    """Writes the data folder that `pack_pictures` read, with the same bytes of every picture.

    Raises:
        UserError: if a picture is not what was packed.
    """
    to.mkdir(parents=True, exist_ok=True)
    packed = np.load(io.BytesIO(content))
    for which in _SPLITS:
        images = np.stack(list(_decoded(packed[f"{which}_bytes"], packed[f"{which}_sizes"])))
        if _digest(images.tobytes()) != str(packed[f"{which}_digest"]):
            raise UserError(f"the {which} pictures are not those that were packed; pack them again")
        np.save(to / f"{which}_images.npy", images)
        np.save(to / f"{which}_labels.npy", packed[f"{which}_labels"])
    write_atomic(to / "classes.txt", str(packed["classes"]).encode())


def pack_files(members: Mapping[str, Path | bytes]) -> bytes:
    """A tar file of `members`, files or their content, by the paths that they have in it.

    Raises:
        ValueError: if a path leads out of the folder that they will be unpacked to.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, source in sorted(members.items()):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name} is outside of the folder that is packed")
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def packed_size(members: Mapping[str, Path | bytes]) -> int:
    """The bytes that `members` add to a tar file, in which a file has a head and whole blocks."""
    sizes = (
        len(source) if isinstance(source, bytes) else source.stat().st_size
        for source in members.values()
    )
    return sum(_HEAD + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for size in sizes)


def unpack_files(content: bytes, root: Path) -> None:
    """Writes the files of a tar file below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(root, filter="data")


def _encoded(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", **_EFFORT)
    return buffer.getvalue()


def _decoded(content: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Iterator[NDArray[np.uint8]]:
    ends = np.cumsum(sizes, dtype=np.int64)
    for start, end in zip(ends - sizes, ends, strict=True):
        with Image.open(io.BytesIO(content[start:end].tobytes())) as image:
            yield np.asarray(image.convert("RGB"))


def _found(folders: list[Path], name: str, where: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{name} is in none of {where}; expected all parts that were packed")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
