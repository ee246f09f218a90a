"""What all commands share: one-line errors and exit codes."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.command import run_command


@pytest.mark.parametrize("name", ["file/folder", "x" * 300])
def test_a_place_that_cannot_be_written_is_the_users_to_mend(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")

    def main(_: Sequence[str]) -> int:
        (tmp_path / name).mkdir()
        return 0

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}: ")
    assert line.endswith("; choose another file or folder")


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "No space left on device; free some space, or choose another"),
        (errno.EACCES, "Permission denied; choose another"),  # of a file that is read, too
    ],
)
def test_what_the_system_refuses_is_named(
    number: int, mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        raise OSError(number, os.strerror(number), "images.npy")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: images.npy: {mend}")


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_closed_output_is_no_mistake(option: str, tmp_path: Path) -> None:
    words = f'"$0" -m runtime doctor {option} >&-'
    ended = subprocess.run(
        ["sh", "-c", words, sys.executable], cwd=tmp_path, stderr=subprocess.PIPE, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
