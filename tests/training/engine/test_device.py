"""Freed memory is used again in training on a CPU."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runtime.base.errors import UserError
from training import qat, run
from training.engine.device import choose_device

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


BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # torch 2.14 for CUDA 13


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int], list[str]], None]:
    """A GPU of a compute capability, and a torch that was built for some architectures."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA X")
    monkeypatch.setattr(torch, "__version__", "2.14.1")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def make(capability: tuple[int, int], built: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)

    return make


@pytest.mark.parametrize(
    ("capability", "built", "usable"),
    [
        ((8, 6), BUILT, True),
        ((8, 9), BUILT, True),  # machine code of 8.6
        ((12, 1), BUILT, True),
        ((6, 1), BUILT, False),
        ((7, 0), BUILT, False),  # sm_75 needs 7.5
        ((11, 0), BUILT, False),  # of no other major version
        ((11, 0), [*BUILT, "compute_90"], True),  # PTX is compiled for what is newer
        ((8, 9), ["compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["compute_100f"], False),
        ((6, 1), [], True),  # a build that does not say it
        ((9, 0), ["gfx90a", "gfx942"], True),  # ROCm
    ],
)
def test_a_gpu_that_torch_was_built_for(
    gpu: Callable[..., None], capability: tuple[int, int], built: list[str], usable: bool
) -> None:
    gpu(capability, built)
    assert choose_device("auto").type == ("cuda" if usable else "cpu")


def test_a_gpu_that_torch_was_not_built_for(
    gpu: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu((6, 1), ["sm_75", "sm_80"])
    why = "NVIDIA X has compute capability 6.1, and torch 2.14.1 was built for sm_75, sm_80"
    assert choose_device("auto") == torch.device("cpu")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"the CPU is used, because {why}\n")
    with pytest.raises(UserError, match=f"^--device cuda: {why}; use --device cpu, or install"):
        choose_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")  # the other process may have a newer GPU
    with pytest.raises(UserError, match=f"^--device auto: {why}; use --device cpu, or install"):
        choose_device("auto")


def test_float32_is_no_tf32_on_a_gpu(gpu: Callable[..., None]) -> None:
    gpu((8, 6), BUILT)
    choose_device("cpu")
    assert torch.backends.cudnn.allow_tf32
    choose_device("auto")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_convolution_on_a_gpu_is_as_exact_as_float32() -> None:
    """The factors of TF32 have 11 significant bits: errors of a sum are about 1e-4 of its size."""
    device = choose_device("cuda")
    torch.manual_seed(0)
    images, weights = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(images.double(), weights.double())
    found = torch.nn.functional.conv2d(images.to(device), weights.to(device)).cpu()
    assert (found - exact).abs().max() < 2e-5 * exact.abs().max()
