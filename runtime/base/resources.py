"""What a process may use: its cores, and objects that hold threads or memory until closed."""

import math
import os
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def usable_cores() -> int:
    """The number of cores that this process may use.

    Fewer than the machine has where `taskset` or a container's cpuset allows only some of them, or
    where a container may use all of them for a share of the time alone (`docker run --cpus 2`).
    More threads than that share are stopped for most of every 100 ms, which delays every answer.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    share = cores_of_quota(Path("/"))
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


@cache
def cores_of_quota(root: Path) -> float | None:
    """How many cores Linux's control groups grant this process over time; None: no bound is set.

    A group's bound is for all groups in it, so the smallest one on the way up counts (the kernel's
    admin-guide/cgroup-v2, `cpu.max`; of version 1 scheduler/sched-bwc).

    Args:
        root: of the file system.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # A container may see the host's path, and mounts its own group as the root.
        own = Path(path.lstrip("/"))
        found += [_quota_in(mounted / group) for group in (own, *own.parents)]
    return min((each for each in found if each is not None), default=None)


def _quota_in(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text(encoding="utf-8") for name in names)
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no bound is "max", and of version 1 -1
        return None


class Closable(ABC):
    """Base of objects that hold threads or memory of a device; a `with` statement closes them."""

    @abstractmethod
    def close(self) -> None:
        """Releases everything. A second call does nothing."""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
