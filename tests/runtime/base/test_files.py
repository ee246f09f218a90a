"""Files and folders that are either whole or absent."""

import errno
import os
import time
from pathlib import Path

import pytest

from runtime.base import files
from runtime.base.errors import UserError
from runtime.base.files import atomic_folder, atomic_path, check_writable, leftovers, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_as_readable_as_any_other_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "any").touch()

    def change(mask: int) -> int:
        raise AssertionError("files that other threads make meanwhile would be open to all")

    monkeypatch.setattr(os, "umask", change)
    write_atomic(tmp_path / "card.json", "{}")
    assert (tmp_path / "card.json").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("file", "file is a file; expected a folder"),
        ("file/below/it", "file is a file; expected a folder"),
        ("link/x", "link is a link that leads nowhere"),
        ("/proc/x/y", r"no file can be made in /proc \(No such file or directory\)"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named_before_the_work(
    folder: str, words: str, tmp_path: Path
) -> None:
    if folder.startswith("/proc") and (os.geteuid() != 0 or not Path("/proc/self").exists()):
        pytest.skip("only root on Linux has the right to write to /proc, and cannot")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=words):
        check_writable(tmp_path / folder)
    check_writable(tmp_path / "new" / "folder")
    assert names(tmp_path) == ["file", "link"]


def test_a_folder_takes_its_place_when_all_of_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    synced: set[int] = set()
    renamed_to: list[Path] = []
    really_sync, really_rename = os.fsync, Path.rename

    def sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        really_sync(descriptor)

    def rename(source: Path, place: Path) -> Path:
        inside = {path.stat().st_ino for path in (source, *source.rglob("*"))}
        assert len(inside) == 4
        assert inside <= synced
        renamed_to.append(place)
        return really_rename(source, place)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    with atomic_folder(target) as staging:
        (staging / "examples").mkdir()
        (staging / "card.json").write_text("{}")
        (staging / "examples" / "0.png").write_bytes(b"0")
        assert not target.exists()
    assert renamed_to == [target]
    assert names(target) == ["card.json", "examples"]
    assert names(tmp_path) == ["bundle"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic_folder(target) as staging:
            (staging / name).write_text("")
    assert names(target) == ["second"]
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as staging:  # noqa: PT012
        (staging / "third").write_text("")
        raise KeyboardInterrupt
    assert names(target) == ["second"]
    assert names(tmp_path) == ["bundle"]


def test_a_folder_that_cannot_be_replaced_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "first").touch()
    really_rename = Path.rename

    def rename(source: Path, place: Path) -> Path:
        if source.name.endswith(".new"):
            raise OSError("no room")
        return really_rename(source, place)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    with pytest.raises(OSError, match="no room"), atomic_folder(target) as staging:
        (staging / "second").touch()
    assert names(target) == ["first"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("moment", [1, 2])
def test_ctrl_c_between_two_renames_leaves_a_whole_folder(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that cannot exchange folders in one step."""
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "first").touch()
    really_rename, renamed = Path.rename, []

    def rename(source: Path, place: Path) -> Path:
        really_rename(source, place)
        renamed.append(place)
        if len(renamed) == moment:
            raise KeyboardInterrupt
        return place

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as staging:
        (staging / "second").touch()
    assert names(target) == [["first"], ["second"]][moment - 1]
    assert names(tmp_path) == ["bundle"]


def test_folders_are_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no moment without the folder, at which a kill or a reader could come."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange folders")

    def rename(*_: Path) -> None:
        raise AssertionError("a second step")

    (tmp_path / "a" / "first").touch()
    monkeypatch.setattr(Path, "rename", rename)
    with atomic_folder(tmp_path / "a") as staging:
        (staging / "second").touch()
    assert names(tmp_path / "a") == ["second"]
    assert names(tmp_path) == ["a", "b"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "bundle").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "bundle")
    with atomic_folder(link) as staging:
        (staging / "new").touch()
    assert link.is_symlink()
    assert names(tmp_path / "disk" / "bundle") == ["new"]
    assert names(tmp_path / "disk") == ["bundle"]


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    old = [tmp_path / ".bundle.0a.new", tmp_path / ".bundle.0b.old"]
    for folder in (*old, tmp_path / ".bundle.0c.new", tmp_path / ".other.0d.new"):
        folder.mkdir()
        (folder / "model.onnx").touch()
    for folder in (*old, tmp_path / ".other.0d.new"):
        os.utime(folder, (time.time() - 90_000,) * 2)
    files.remove_abandoned(target)
    assert len(names(tmp_path)) == 4, "the bundle is not there: .old may be all that is left of it"
    target.mkdir()
    files.remove_abandoned(target)
    assert names(tmp_path) == [".bundle.0c.new", ".other.0d.new", "bundle"]


def test_leftovers_are_those_of_one_folder(tmp_path: Path) -> None:
    left = {".a[1].7.new", ".a[1].7.old"}
    for name in (*left, "a[1]", ".a1.7.new", ".a[1].lock", ".a[1]b.7.new"):
        (tmp_path / name).mkdir()
    assert {path.name for path in leftovers(tmp_path / "a[1]")} == left


def test_a_file_is_kept_when_its_new_content_fails(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text("whole")
    with pytest.raises(OSError, match="no room"), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        raise OSError("no room")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["card.json"]


def test_a_full_disk_is_told_by_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says none for what is written to an open file."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(tmp_path / "card.json", "{}")
    assert caught.value.filename == str(tmp_path / "card.json")
    with pytest.raises(OSError, match="No space") as caught, atomic_folder(tmp_path / "b") as new:
        write_atomic(new / "card.json", "{}")
    assert caught.value.filename == str(tmp_path / "b")
