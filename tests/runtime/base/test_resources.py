"""How many cores a process may use, where a container bounds its share of them."""

import os
from pathlib import Path

import pytest

from runtime.base import resources
from runtime.base.resources import cores_of_quota, usable_cores

OLD = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}
UNBOUND = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"": {"cpu.max": "200000 100000\n"}}, 2.0),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, None),
        # The bound of a group above counts, too.
        (
            "0::/a/b\n",
            {"a": {"cpu.max": "50000 100000\n"}, "a/b": {"cpu.max": "400000 100000\n"}},
            0.5,
        ),
        ("4:memory:/x\n3:cpu,cpuacct:/docker/f00\n0::/\n", {"cpu": OLD}, 1.5),
        ("3:cpu:/a\n0::/\n", {"cpu/a": UNBOUND}, None),
        ("3:cpuset:/a\n", {"cpu": OLD}, None),
        ("0::/\n", {}, None),
    ],
)
def test_a_quota_is_read_from_either_version(
    tmp_path: Path, groups: str, files: dict[str, dict[str, str]], cores: float | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for folder, texts in files.items():
        (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (tmp_path / "sys/fs/cgroup" / folder / name).write_text(text)
    assert cores_of_quota(tmp_path) == cores


def test_where_nothing_is_stated_there_is_no_quota(tmp_path: Path) -> None:
    assert cores_of_quota(tmp_path) is None


@pytest.mark.parametrize(("share", "cores"), [(None, 4), (8.0, 4), (2.5, 3), (0.5, 1)])
def test_the_smaller_of_allowed_cores_and_quota_counts(
    share: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(resources, "cores_of_quota", lambda _: share)
    assert usable_cores() == cores
