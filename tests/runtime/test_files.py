"""Files and folders that are either whole or absent."""

import os
from pathlib import Path

import pytest

from runtime.files import atomic_folder, atomic_path, leftovers, write_atomic


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
    with pytest.raises(OSError, match="no room"), atomic_folder(target) as staging:
        (staging / "second").touch()
    assert names(target) == ["first"]
    assert names(tmp_path) == ["bundle"]


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
