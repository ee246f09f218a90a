"""A server that is asked for more than it can do (tests/benchmarks/overload.py, shortened)."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest


@pytest.mark.slow
@pytest.mark.alone
def test_overload_is_refused_and_nothing_breaks(
    command: Callable[..., CompletedProcess[str]], trained_bundle: Path, tmp_path: Path
) -> None:
    finished = command(
        "tests/benchmarks/overload.py",
        trained_bundle,
        *("--seconds", "5", "--capacity-seconds", "2", "--max-queue", "8"),
        cwd=tmp_path,
    )
    assert finished.stdout, finished.stderr
    found = json.loads(finished.stdout)
    assert found["broken_connections"] == 0
    assert set(found["statuses"]) == {"200", "503"}  # it was overloaded, and nothing else happened
    assert found["memory_growth"] < 0.05
    # The script has bounds on times, too. They hold only on a machine that does nothing else.
    assert found["answered_per_second"] > 0
