"""Freed memory is used again in training on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runtime.base.errors import UserError
from training import qat, run

_BLOCKS = """
import resource
import torch
from training.engine.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(2**24).fill_(1.0)  # 64 MiB, as a layer's maps may have
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, has_glibc = faults(), int(keep_freed_memory(torch.device("cpu")))
faults()  # the first blocks find no room yet
print(before, has_glibc, faults())
"""


def test_large_blocks_are_used_again() -> None:
    """The kernel clears hardly any of them, where it cleared each of the ten."""
    ended = subprocess.run(
        [sys.executable, "-c", _BLOCKS], stdout=subprocess.PIPE, text=True, check=True
    )
    before, has_glibc, after = map(int, ended.stdout.split())
    if not has_glibc:
        pytest.skip("not glibc")
    assert after < before / 4


@pytest.mark.parametrize("command", ["run", "qat"])
def test_training_asks_for_it(
    command: str,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "source"
    module = "train"
    if command == "qat":
        assert run.main([*tiny_options, "--out", str(folder)]) == 0
        module = "train_int8"

    def asked(_device: torch.device) -> bool:
        raise UserError("memory is kept")

    monkeypatch.setattr(f"training.{module}.keep_freed_memory", asked)
    arguments = [str(folder)] if command == "qat" else [*tiny_options, "--out", str(folder)]
    with pytest.raises(UserError, match="memory is kept"):
        {"run": run, "qat": qat}[command].main(arguments)
