"""How many files of ours a batch passes from its rows to its loss: few enough to read at once."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

from training.config.plan import Plan
from training.data import Dataset
from training.engine.interruption import StopRequest
from training.engine.step import Step
from training.engine.trainer import Trainer
from training.records.journal import Progress

ROOT = Path(__file__).resolve().parents[3]
# What runs beside the batch: it never passes through these.
BESIDE = {"journal.py", "optimizers.py", "process_group.py", "device.py"}


def test_a_batch_passes_nine_files_on_its_way_to_the_loss(
    tiny_data: Dataset,
    make_plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docs/architecture.md lists them; on a GPU the captured step is a tenth."""
    trainer = Trainer(make_plan("drg+dsr", epochs=1), tiny_data, device=torch.device("cpu"))
    passed: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT / "training"):
            passed.append(str(path.relative_to(ROOT)))

    compute = Step.compute

    def computed(step: Step, *arguments: object) -> None:
        compute(step, *arguments)  # type: ignore[arg-type]
        sys.setprofile(None)

    monkeypatch.setattr(Step, "compute", computed)
    run_epoch = trainer._run_epoch

    def profiled(*arguments: object) -> None:
        sys.setprofile(note)
        run_epoch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "_run_epoch", profiled)
    trainer.train(tmp_path, lambda _: None, Progress(epochs=1, quiet=True), StopRequest())
    files = [file for file in dict.fromkeys(passed) if Path(file).name not in BESIDE]
    assert sorted(files) == [
        "training/augmentation/augment.py",
        "training/augmentation/crops.py",
        "training/data/batches.py",
        "training/data/rows_to_device.py",
        "training/engine/step.py",
        "training/engine/trainer.py",
        "training/methods/drg_dsr.py",
        "training/methods/method.py",
        "training/networks/layers.py",
    ]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("### From a batch's rows to its loss")
    walk, _, _ = rest.partition("###")
    assert [file for file in files if f"`{file}`" not in walk] == []
