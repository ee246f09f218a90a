"""What all commands share: one-line errors and exit codes."""

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
    assert line.startswith(f"error: cannot write: {tmp_path / name}: ")
    assert line.endswith("choose another folder")
