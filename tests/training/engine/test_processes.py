"""Several processes train as one would with the larger batch, and end together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import distributed

from training.config.plan import Plan
from training.engine.process_group import open_group
from training.records.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SECONDS = 120


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def loss_curve(
    plan: Plan, folder: Path, *, processes: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    plan_file, out = folder / f"plan-{processes}.json", folder / f"terms-{processes}.npy"
    plan_file.write_bytes(msgspec.json.encode(plan))
    script = str(Path(__file__).with_name("two_processes.py"))
    subprocess.run(
        [*TORCHRUN, "--nproc-per-node", str(processes), script, str(plan_file), str(out)],
        check=True,
        env=environment(),
        timeout=SECONDS,
    )
    terms: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.load(out)
    return terms


@pytest.mark.parametrize("teacher", ["previous", "ema"])
def test_two_processes_learn_what_one_does_from_double_batches(
    make_plan: Callable[..., Plan], tiny_folder: Path, tmp_path: Path, teacher: str
) -> None:
    curves = []
    for processes in (1, 2):
        plan = make_plan(
            arch="shufflenetv2",
            crop="none",
            flip=False,
            dsr_teacher=teacher,
            batch_size=12 // processes,
            epochs=3,
        )
        plan = msgspec.structs.replace(plan, data_argument=str(tiny_folder))
        curves.append(loss_curve(plan, tmp_path, processes=processes))
    one, two = curves
    assert one.shape == (12, 4)
    assert not np.allclose(one[0], one[-1], rtol=1e-2)
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=2e-6)


def test_two_processes_normalise_their_batches_together(
    make_plan: Callable[..., Plan], tiny_folder: Path, tmp_path: Path
) -> None:
    """Later steps are not compared: so few images magnify a change of 1e-7 to 1e-2 in one step."""
    curves = []
    for processes in (1, 2):
        plan = make_plan(
            arch="shufflenetv2",
            crop="none",
            flip=False,
            sync_batch_norm=True,
            learning_rate=0.005,
            batch_size=12 // processes,
            epochs=1,
        )
        plan = msgspec.structs.replace(plan, data_argument=str(tiny_folder))
        curves.append(loss_curve(plan, tmp_path, processes=processes))
    one, two = curves
    assert not np.allclose(one[0], one[1], rtol=1e-2)
    np.testing.assert_allclose(two[:2], one[:2], rtol=2e-4, atol=2e-5)


def test_only_the_main_process_writes_and_all_resume(
    tiny_options: list[str], tmp_path: Path
) -> None:
    command = [*TORCHRUN, "--nproc-per-node", "2", str(ROOT / "training" / "run.py"), *tiny_options]
    for extra in ([], ["--resume"]):
        finished = subprocess.run(
            [*command, *extra],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("run folder" if not extra else "nothing to resume") == 1
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["latest", "tiny-mobilenetv2-drg+dsr-s0"]
    result = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
    assert result["processes"] == 2


def test_processes_choose_an_epoch_and_stop_together(
    tiny_options: list[str], tmp_path: Path
) -> None:
    """Only the main one evaluates; were the others to go on alone, the run would hang."""
    keys = {"epochs": 50, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.02}
    keys |= {"select": "best", "patience": 1, "validation_fraction": 0.25, "padding": 1}
    recipe = tmp_path / "patient.yaml"
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    script = str(ROOT / "training" / "run.py")
    finished = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "2", script, *tiny_options, "--recipe", str(recipe)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "runs" / "latest" / "result.json").read_text())
    assert result["processes"] == 2
    assert result["best_epoch"] == result["epochs_trained"] - 1 < 49


def test_the_others_wait_for_the_one_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than torch's ten minutes between GPUs, which a large folder takes to decode."""
    asked: dict[str, timedelta] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        distributed, "init_process_group", lambda _backend, timeout: asked.update(timeout=timeout)
    )
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with open_group(torch.device("cpu")) as group:
        assert (group.rank, group.world_size) == (1, 2)
    assert asked["timeout"] > timedelta(hours=6)


def two_processes_after_an_epoch(options: list[str], folder: Path) -> subprocess.Popen[str]:
    torchrun = subprocess.Popen(
        [*TORCHRUN, "--nproc-per-node", "2", str(ROOT / "training" / "run.py"), *options],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert torchrun.stdout is not None
    for line in torchrun.stdout:
        if line.startswith("epoch "):
            break
    return torchrun


def test_processes_with_few_steps_an_epoch_stop_together(
    tiny_options: list[str], tmp_path: Path
) -> None:
    """Two steps an epoch never come to the one where long epochs ask; torchrun kills after 30 s."""
    options = [*tiny_options, "--epochs", "5000", "--out", "run"]
    torchrun = two_processes_after_an_epoch(options, tmp_path)
    torchrun.send_signal(signal.SIGTERM)
    _, errors = torchrun.communicate(timeout=SECONDS)
    message = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message == [
        f"error: interrupted in epoch {checkpoint_epoch(tmp_path / 'run')}, step 2; "
        "run goes on with --resume"
    ]


def checkpoint_epoch(run: Path) -> int:
    checkpoint = read_checkpoint(run / "checkpoint.pt")
    assert (checkpoint.step, checkpoint.finished) == (0, False)
    return checkpoint.epoch


def test_a_dead_process_ends_the_run_with_a_message(
    tiny_options: list[str], tmp_path: Path
) -> None:
    options = [*tiny_options, "--epochs", "500", "--out", "run"]
    torchrun = two_processes_after_an_epoch(options, tmp_path)
    os.kill(child_of_rank(1, torchrun.pid), signal.SIGKILL)
    _, errors = torchrun.communicate(timeout=SECONDS)
    assert torchrun.returncode == 1
    message = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert "another process of this run has ended" in message[0]
    assert "--resume" in message[0]
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def child_of_rank(rank: int, parent: int) -> int:
    """The process that torchrun started as that rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no child of {parent} has rank {rank}")
