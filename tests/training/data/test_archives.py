"""Zip and tar files as data: layouts in them, and what hostile or odd ones hold."""

import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training.data import Dataset, load_dataset

Pictures = Callable[[int], bytes]


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, progress=True, **options)


@pytest.fixture
def picture(tmp_path: Path, write_image: Any) -> Pictures:
    def bytes_of(seed: int) -> bytes:
        content: bytes = write_image(tmp_path / "picture.png", seed=seed).read_bytes()
        return content

    return bytes_of


def names(prefix: str = "", between: str = "/") -> list[str]:
    return [f"{prefix}{'ab'[number % 2]}{between}{number}.png" for number in range(8)]


def zip_of(folder: Path, picture: Pictures, members: list[str], **texts: bytes) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for number, name in enumerate(members):
            archive.writestr(name, picture(number), zipfile.ZIP_DEFLATED)
    return folder / "set.zip"


def tar_of(folder: Path, members: dict[str, bytes], name: str = "set.tar") -> Path:
    with tarfile.open(folder / name, "w") as archive:
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / name


def test_layouts_in_a_zip_are_those_of_folders(
    tmp_path: Path, picture: Pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    members = names("data/Train/") + [f"data/Valid/{'ab'[n % 2]}/v{n}.png" for n in range(4)]
    members += ["__MACOSX/data/._x.png", "data/.DS_Store", "data/Train/a/Thumbs.db"]
    archive = zip_of(tmp_path, picture, members)
    data = load(archive)
    assert (data.name, len(data.train_labels), len(data.test_labels)) == ("set", 8, 4)
    assert data.test_paths[0] == "data/Valid/a/v0.png"
    said = capsys.readouterr().out
    assert "set.zip holds nothing but data/, which is read instead" in said
    assert "Train/ is trained on, Valid/ is tested on" in said
    assert data.left_out == {"hidden": 1, "system file or folder": 2}


def test_the_leaves_of_a_zip_are_classes(tmp_path: Path, picture: Pictures) -> None:
    members = [f"{kind}/{name}" for kind in ("x", "y") for name in names()]
    archive = zip_of(tmp_path, picture, members)
    assert load(archive).class_names == ("x", "y")
    assert load(archive, classes="leaves").class_names == ("x/a", "x/b", "y/a", "y/b")


def test_images_of_an_archive_are_known_by_content(tmp_path: Path, picture: Pictures) -> None:
    archive = zip_of(tmp_path, picture, names())
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("a/photo", picture(20))
        file.writestr("a/readme", b"no picture")
        file.writestr("b/notes.txt", b"no picture", zipfile.ZIP_DEFLATED)
    data = load(archive)
    assert len(data.train_labels) + len(data.test_labels) == 9
    assert data.left_out == {"not an image": 2}


def test_a_zip_that_was_written_to_a_pipe(tmp_path: Path, picture: Pictures) -> None:
    """It states the sizes behind each member, and begins with something else."""

    class Pipe(io.RawIOBase):
        written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, content: Any) -> int:
            self.written += bytes(content)
            return len(content)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names()):
            archive.writestr(name, picture(number))
    whole = load(zip_of(tmp_path, picture, names()))
    (tmp_path / "piped.zip").write_bytes(b"#!/bin/sh\n" + pipe.written)
    assert load(tmp_path / "piped.zip").content_digest() == whole.content_digest()


def test_a_broken_member_is_named_with_its_archive(
    tmp_path: Path, picture: Pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = zip_of(tmp_path, picture, names())
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("a/broken.png", b"\x89PNG\r\n\x1a\n and no more")
    assert load(archive).left_out == {"broken": 1}
    assert f"skipped {archive}/a/broken.png: not a readable image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a/x.png", "holds '../a/x.png', which leads out of it"),
        ("a/../../x.png", "which leads out of it"),
        ("/a/x.png", "which leads out of it"),
        ("C:/a/x.png", "which leads out of it"),
        ("..\\x.png", "which leads out of it"),
        ("d/" * 65 + "x.png", "is no name of a file in at most 64 folders"),
        ("a/0.png/x.png", "is a file and a folder of one name"),
    ],
)
def test_names_that_no_folder_could_have(
    tmp_path: Path, picture: Pictures, name: str, message: str
) -> None:
    for archive in (
        zip_of(tmp_path, picture, [*names(), name]),
        tar_of(tmp_path, {name: picture(0) for name in [*names(), name]}),
    ):
        with pytest.raises(UserError, match=message.replace("..", r"\.\.")) as caught:
            load(archive)
        assert str(caught.value).startswith(str(archive))


def test_names_with_backslashes_and_of_unmarked_utf8(tmp_path: Path, picture: Pictures) -> None:
    archive = zip_of(tmp_path, picture, names("", "\\"))
    content = archive.read_bytes()
    assert content.count(b"a\\0.png") == 2
    # A name of UTF-8 bytes without the mark that says so, and one of bytes that are no UTF-8.
    content = content.replace(b"a\\0.png", b"a\\\xc3\xa4png").replace(b"b\\1.png", b"b\\\xe4.png")
    archive.write_bytes(content)
    data = load(archive)
    assert {"a/äpng", "b/\udce4.png"} < {*data.train_paths, *data.test_paths}
    archive.write_bytes(content.replace(b"b\\3.png", b"\xe4\\3.png"))
    with pytest.raises(UserError, match="is named in another encoding than UTF-8"):
        load(archive)


def test_archives_that_cannot_be_read(tmp_path: Path, picture: Pictures) -> None:
    archive = zip_of(tmp_path, picture, names())
    whole = archive.read_bytes()

    def refused(content: bytes, message: str, name: str = "set.zip") -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)

    directory = whole.index(b"PK\1\2")
    encrypted = whole[: directory + 8] + b"\1" + whole[directory + 9 :]
    refused(encrypted, "set.zip/a/0.png is encrypted; unpack the zip file with its password")
    deflate64 = whole[: directory + 10] + b"\x09" + whole[directory + 11 :]
    refused(deflate64, r"is compressed by method 9; expected 8 \(deflate\)")
    refused(whole[:-40], "is no whole zip file")
    refused(b"", "is no whole zip file")
    refused(whole, "is no whole tar file", "set.tar")
    refused(b"", "is no whole tar file", "set.tar")
    refused(b"\x1f\x8b\x08\x00", "run `gzip -d set.tar.gz`", "set.tar.gz")
    tar = tar_of(tmp_path, {name: picture(n) for n, name in enumerate(names())}).read_bytes()
    refused(tar[:5000], "is no whole tar file", "set.tar")
    refused(tar[:1000], "is no whole tar file", "set.tar")


def test_a_bomb_takes_no_memory(tmp_path: Path, picture: Pictures) -> None:
    """200 MB in 200 kB: more than an image may have. It is one broken image."""
    archive = zip_of(tmp_path, picture, names())
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/bomb.png", bytes(200_000_000))
    content = archive.read_bytes()
    data = load(archive)
    assert data.left_out == {"broken": 1}
    # One that states a small size, and goes on for long.
    size = (200_000_000).to_bytes(4, "little")
    archive.write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    assert load(archive).left_out == {"broken": 1}


def test_links_and_names_that_come_twice(
    tmp_path: Path, picture: Pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: picture(number) for number, name in enumerate(names())}
    archive = tar_of(tmp_path, members)
    with tarfile.open(archive, "a") as file:
        for name, kind, target in (
            ("b/linked.png", tarfile.SYMTYPE, "1.png"),
            ("b/hard.png", tarfile.LNKTYPE, "b/3.png"),
            ("b/dead.png", tarfile.SYMTYPE, "none.png"),
            ("b/out.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
        info = tarfile.TarInfo("a/0.png")
        info.size = len(picture(9))
        file.addfile(info, io.BytesIO(picture(9)))
    data = load(archive)
    assert {"b/linked.png", "b/hard.png"} < {*data.train_paths, *data.test_paths}
    assert data.left_out == {"link that leads nowhere": 2, "duplicate": 1}
    said = capsys.readouterr().out
    assert "2 links left out that lead to no file in it" in said
    assert "1 files left out that the tar file holds again under the same name" in said


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_empty_class_folder_is_refused_as_it_is_on_the_disk(
    tmp_path: Path, picture: Pictures, kind: str
) -> None:
    root = tmp_path / "set"
    for number, name in enumerate(names()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    (root / "emu" / ".git").mkdir(parents=True)
    archive = Path(shutil.make_archive(str(root), kind, root))
    for data in (root, archive):
        with pytest.raises(UserError, match=f"{re.escape(str(data))}/emu has no images"):
            load(data)
    shutil.rmtree(root / "emu")
    data = load(Path(shutil.make_archive(str(root), kind, root)))
    assert (data.class_names, data.left_out) == (("a", "b"), {})


def test_a_file_and_an_empty_folder_of_one_name(tmp_path: Path, picture: Pictures) -> None:
    archive = zip_of(tmp_path, picture, names())
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("a/0.png/", b"")
    with pytest.raises(UserError, match=r"a/0\.png is a file and a folder of one name"):
        load(archive)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a/hole.bmp", tarfile.GNUTYPE_SPARSE, "set.tar holds 'a/hole.bmp' with its zeros left"),
        ("../out.png", tarfile.REGTYPE, "set.tar holds '../out.png', which leads out of it"),
    ],
)
def test_members_that_cannot_be_read_are_not_left_out(
    tmp_path: Path, picture: Pictures, name: str, kind: bytes, message: str
) -> None:
    archive = tar_of(tmp_path, {path: picture(n) for n, path in enumerate(names())})
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    with tarfile.open(archive) as file:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in file)
    archive.write_bytes(archive.read_bytes()[:end] + header + bytes(1024))
    with pytest.raises(UserError) as error:
        load(archive)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
