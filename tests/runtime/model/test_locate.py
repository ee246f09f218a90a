"""Finding the newest run, also where it is gone."""

from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.model.locate import latest_run


def test_a_link_to_a_run_that_was_moved_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that it does not exist, because `ls` shows it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("gone")
    with pytest.raises(UserError, match="runs/latest is a link to gone, which is not there"):
        latest_run()
    (tmp_path / "runs" / "gone").mkdir()
    assert latest_run() == Path("runs/gone")
