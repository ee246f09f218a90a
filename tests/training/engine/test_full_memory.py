"""A memory that is full is one line for the user, and leaves the checkpoint as it was."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from training import benchmark, evaluate, qat, run
from training.config.plan import MovedData
from training.engine.full_memory import full_memory_told
from training.engine.step import Step
from training.records.checkpoint import read_checkpoint
from training.studies.robustness_lines import measure_robustness

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
_STEPS = 4  # of an epoch of the tiny data


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="module")
def finished(
    tiny_folder: Path, tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run whose memory was full in its second epoch, and that went on afterwards."""
    folder = tmp_path_factory.mktemp("full_memory") / "run"
    command = [
        *("--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--out", str(folder)),
        *("--data", str(tiny_folder), "--recipe", str(tiny_recipe_file)),
    ]
    compute, done = Step.compute, []

    def step(self: Step, batch: object) -> None:
        done.append(batch)
        if len(done) > _STEPS:
            full()
        compute(self, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Step, "compute", step)
        told = (
            "^the memory of .* threads did not hold batches of 8 images of 16 px; "
            "use a smaller --batch-size or --image-size, or end what else uses it$"
        )
        with pytest.raises(UserError, match=told):
            run.main(command)
    assert read_checkpoint(folder / "checkpoint.pt").epoch == 1
    assert run.main([*command, "--resume"]) == 0
    return folder


def test_a_training_goes_on_from_its_checkpoint(finished: Path) -> None:
    assert read_checkpoint(finished / "checkpoint.pt").finished


def test_a_training_for_int8(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Step, "compute", full)
    with pytest.raises(UserError, match="did not hold batches of 8 images of 16 px; end what else"):
        qat.main([str(finished), "--device", "cpu"])


def test_an_evaluation(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dark", "bright", "striped"):
        (tmp_path / "new" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "new" / name / "0.png")
    monkeypatch.setattr("training.evaluation.logits.logits_of", full)
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(UserError, match=r"did not hold 16 images of 16 px; end what else uses it$"):
        evaluate.main([str(finished), str(tmp_path / "new"), *out])
    moved = MovedData(None, None)
    with pytest.raises(UserError, match="did not hold an evaluation at 16 px; end what else"):
        measure_robustness(finished, study="s", command="", device="cpu", moved=moved)


def test_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.studies.step_cost.measure_steps", full)
    with pytest.raises(UserError, match="did not hold batches of 4 images of 32 px; use a smaller"):
        benchmark.main(["--batch-size", "4", "--device", "cpu"])


def after_another() -> None:
    """As the end of a graph's capture does."""
    try:
        full()
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def without_class() -> None:
    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously")


@pytest.mark.parametrize("fails", [full, after_another, without_class])
def test_errors_of_a_gpu(fails: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA T4")
    told = (
        r"^the memory of NVIDIA T4 did not hold it all; use --device cpu, or end what else uses it "
        r"\(`nvidia-smi` shows it\)$"
    )
    with pytest.raises(UserError, match=told), full_memory_told(CUDA, "it all"):
        fails()


def test_errors_of_a_processor_and_others() -> None:
    with pytest.raises(UserError, match="did not hold it all"), full_memory_told(CPU, "it all"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"), full_memory_told(CPU, "it all"):
        torch.ones(2, 3) @ torch.ones(2, 3)
