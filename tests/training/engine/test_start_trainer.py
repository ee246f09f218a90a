"""A step is compiled before the first one counts, by a choice that the run keeps."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from stop_after import StopAfter

from runtime.base.errors import UserError
from training.config.plan import Plan
from training.data import Dataset
from training.engine import execution, start_trainer, step
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.process_group import ProcessGroup
from training.engine.trainer import Trainer
from training.records.checkpoint import Checkpoint, read_checkpoint
from training.records.journal import Progress

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Traces and guards as a compiler does, and makes no kernels."""
    monkeypatch.setattr(execution, "missing_to_compile", lambda _device: None)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compile_ = partial(torch.compile, backend="eager", dynamic=False, fullgraph=True)
    monkeypatch.setattr(step, "_compiled", compile_)
    torch._dynamo.reset()
    # A step that is compiled anew in the middle of a run costs a minute, so it is an error here.
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        yield


def start(
    plan: Plan,
    data: Dataset,
    *,
    former: Checkpoint | None = None,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Trainer:
    trainer = start_trainer.start_trainer(
        plan,
        data,
        device=CPU,
        group=ProcessGroup(),
        teacher=None,
        former=former,
        stop=stop or StopRequest(),
        say=say,
    )
    if former is not None:
        trainer.restore(former)
    return trainer


def train(trainer: Trainer, folder: Path, *, steps: int = 10**6) -> Checkpoint:
    left: list[Checkpoint] = []
    folder.mkdir(exist_ok=True)
    try:
        trainer.train(folder, left.append, Progress(epochs=2, quiet=True), StopAfter(steps))
    except InterruptedRunError:
        assert steps < 10**6
    return left[-1]


@pytest.mark.parametrize(
    ("terms", "recipe"),
    [
        ("drg+dsr", {"ema_decay": 0.9}),
        ("drg", {"mixup": 0.5, "unmixed_epochs": 1, "optimizer": "adamw", "random_erasing": 0.5}),
    ],
)
def test_a_compiled_run_resumes_bit_equal(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    terms: str,
    recipe: dict[str, object],
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = make_plan(terms, compile=True, **recipe)
    said: list[str] = []
    torch._dynamo.reset()
    undisturbed = train(start(plan, tiny_data, say=said.append), tmp_path / "undisturbed")
    assert undisturbed.training["execution"] == {
        "device": "cpu",
        "compiled": True,
        "precision": "fp32",
    }
    kernels = tmp_path / "cache" / "compiled"
    assert said[0].startswith("steps in fp32, compiled; ")
    assert said[0].endswith(f"; kernels are kept in {kernels}")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kernels)
    torch._dynamo.reset()
    former = train(start(plan, tiny_data), tmp_path / "resumed", steps=2)
    torch._dynamo.reset()
    torch.manual_seed(12345)  # another process starts with another state
    again: list[str] = []
    resumed = train(start(plan, tiny_data, former=former, say=again.append), tmp_path / "resumed")
    assert again[0].startswith("steps in fp32, compiled: as it was begun")
    names = [name for name in Checkpoint.__dataclass_fields__ if name != "seconds"]
    assert_equal_trees(
        {name: getattr(resumed, name) for name in names},
        {name: getattr(undisturbed, name) for name in names},
    )
    assert not any("_orig_mod" in key for key in resumed.student)


def test_compiling_ahead_changes_nothing(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = make_plan("drg+dsr", compile=True, ema_decay=0.9)
    ahead = start(plan, tiny_data)
    torch._dynamo.reset()
    chosen = ahead.learner.execution
    fresh = Trainer(plan, tiny_data, device=CPU, execution=chosen)
    torch.manual_seed(0)
    assert_equal_trees(ahead.learner.networks()._asdict(), fresh.learner.networks()._asdict())
    torch.manual_seed(0)
    first = train(ahead, tmp_path / "ahead")
    torch._dynamo.reset()
    torch.manual_seed(0)
    second = train(fresh, tmp_path / "fresh")
    assert_equal_trees(first.student, second.student)
    assert_equal_trees(first.training, second.training)


def start_on_cuda(plan: Plan, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said where a GPU's steps are compiled; they are with the first step."""
    chosen = execution.Execution(device="cuda", compiled=True, precision="bf16")
    monkeypatch.setattr(start_trainer, "execution_of", lambda _recipe, _device: chosen)
    monkeypatch.setattr(start_trainer, "Trainer", lambda *_, **__: None)
    said: list[str] = []
    start_trainer.start_trainer(
        plan,
        data,
        device=torch.device("cuda"),
        group=ProcessGroup(),
        teacher=None,
        former=None,
        stop=StopRequest(),
        say=said.append,
    )
    return said[0]


def test_a_gpu_keeps_its_kernels_too(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = str(tmp_path / "cache" / "compiled")
    words = "steps in bf16, compiled; kernels are kept in "
    assert start_on_cuda(make_plan(), tiny_data, monkeypatch) == words + kernels
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == kernels
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_me")  # torch's own
    assert start_on_cuda(make_plan(), tiny_data, monkeypatch) == words + kernels
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/scratch/mine")
    assert start_on_cuda(make_plan(), tiny_data, monkeypatch) == words + "/scratch/mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/scratch/mine"


def test_kernels_that_cannot_be_kept(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training does not need them, so torch has them where it always had them."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "file"))
    assert start_on_cuda(make_plan(), tiny_data, monkeypatch) == (
        "steps in bf16, compiled; kernels are not kept for the next run: "
        f"{tmp_path}/file is a file; expected a folder, which may not exist yet"
    )
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def broken(*_: object, **__: object) -> Callable[..., object]:
    def fails(*_: object) -> object:
        raise torch._inductor.exc.CppCompileError(["g++"], "fatal error: math.h: No such file")

    return fails


def test_a_compiler_that_fails(
    tiny_data: Dataset, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_compiled", broken)
    with pytest.raises(UserError, match=r"^the step cannot be compiled: .*; use compile: false"):
        start(make_plan(compile=True), tiny_data)


def test_a_stop_while_compiling_is_no_failure_of_the_compiler(
    tiny_data: Dataset, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the compiler, too; the run must not go on uncompiled because of that."""
    monkeypatch.setattr(step, "_compiled", broken)
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(InterruptedRunError, match="while the step was compiled"):
        start(make_plan(compile=True), tiny_data, stop=stop)


def test_a_run_of_an_older_version_goes_on_as_it_was(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(compile=False)
    former = train(start(plan, tiny_data), tmp_path, steps=1)
    del former.training["execution"]
    resumed = start(make_plan(), tiny_data, former=former)
    assert resumed.learner.execution.compiled is False


@pytest.mark.skipif(
    not os.environ.get("SKD_EDGE_NIGHTLY"), reason="compiles kernels, a minute: make nightly"
)
def test_a_killed_run_with_real_kernels_ends_bit_equal(
    tiny_options: list[str],
    tiny_recipe_file: Path,
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    """Processes as a user has them: one undisturbed, one killed, and one that goes on."""
    recipe = tmp_path / "compiled.yaml"
    recipe.write_text(tiny_recipe_file.read_text() + "\ncompile: true\n")
    options = [*tiny_options, "--recipe", str(recipe), "--arch", "resnet18", "--width", "1"]
    environment = {**os.environ, "SKD_EDGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def begin(name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "training" / "run.py"), *options, *more]
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / name)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    undisturbed = begin("undisturbed")
    assert "steps in fp32, compiled; kernels are kept in" in undisturbed.communicate()[0]
    assert undisturbed.returncode == 0
    killed = begin("killed")
    assert killed.stdout is not None
    while "epoch 1/2" not in (line := killed.stdout.readline()):
        assert line, "the run ended before its first epoch"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = begin("killed", "--resume")
    assert "compiled: as it was begun" in resumed.communicate()[0]
    first, second = (
        read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("undisturbed", "killed")
    )
    assert first.training["execution"]["compiled"] is True
    assert_equal_trees(first.student, second.student)
    assert_equal_trees(first.training, second.training)
