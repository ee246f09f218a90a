"""What `compile` and `precision` mean on a processor, decided without a clock."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from training import run
from training.config.former_recipes import recipe_of_result
from training.config.plan import Plan, differences
from training.config.recipe import recipe_from_values
from training.data import Dataset
from training.data.batches import Batch
from training.engine import device, execution
from training.engine.build import build_learner
from training.engine.execution import (
    Execution,
    execution_of,
    kept_execution,
    missing_to_compile,
)
from training.engine.process_group import ProcessGroup
from training.engine.step import Step
from training.studies.result_lines import whole_recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MakePlan = Callable[..., Plan]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "missing_to_compile", lambda _device: None)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("word", "compiled", "why"),
    [
        ("auto", False, "torch's own kernels are faster on a CPU"),
        (True, True, ""),
        (False, False, "the recipe says compile: false"),
    ],
)
def test_a_processor_compiles_where_it_is_asked_to(
    make_plan: MakePlan, word: object, compiled: bool, why: str
) -> None:
    found = execution_of(make_plan(compile=word).recipe, CPU)
    assert found == Execution(device="cpu", compiled=compiled, precision="fp32", why=why)


def test_without_a_compiler(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    missing = "there is no C++ compiler (no-such-compiler; $CXX names another one)"
    assert missing_to_compile(CPU) == missing
    assert not execution_of(make_plan().recipe, CPU).compiled
    with pytest.raises(UserError, match=r"compile: received true, but there is no C.. compiler"):
        execution_of(make_plan(compile=True).recipe, CPU)
    state = Execution(device="cpu", compiled=True, precision="fp32").state_dict()
    with pytest.raises(UserError, match=r"begun with compiled steps, but there is no C.. compiler"):
        kept_execution({"execution": state}, CPU)


def test_a_command_that_must_compile_and_cannot_writes_nothing(
    tiny_options: list[str],
    tiny_recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = tmp_path / "compiled.yaml"
    recipe.write_text(tiny_recipe_file.read_text() + "\ncompile: true\n")
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"^compile: received true, but there is no C\+\+ comp"):
        run.main([*tiny_options, "--recipe", str(recipe), "--out", str(out)])
    assert not out.exists()


def test_without_the_headers_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c++").touch(mode=0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    missing = missing_to_compile(CPU)
    assert missing == (
        f"Python's headers are not installed ({tmp_path}/Python.h; Debian: python3-dev)"
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU that Triton can use, and an empty folder for all programs and headers."""
    capability = (7, 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_options: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def test_a_gpu_without_the_headers_of_python(gpu: Path, make_plan: MakePlan) -> None:
    """Triton compiles its own driver.c, which includes them."""
    (gpu / "gcc").touch(mode=0o755)
    missing = f"Python's headers are not installed ({gpu}/Python.h; Debian: python3-dev)"
    assert missing_to_compile(CUDA) == missing
    assert execution_of(make_plan().recipe, CUDA).words == f"steps in fp32, not compiled: {missing}"
    with pytest.raises(UserError, match=r"^compile: received true, but Python's headers are not"):
        execution_of(make_plan(compile=True).recipe, CUDA)
    (gpu / "Python.h").touch()
    assert missing_to_compile(CUDA) is None


@pytest.mark.parametrize(
    ("present", "named", "missing"),
    [
        ("gcc", None, None),
        ("clang", None, None),
        ("cc", None, "there is no C compiler (gcc or clang; $CC names another one)"),
        ("cc", "cc", None),
        ("gcc", "icx", "there is no C compiler 'icx', which $CC names"),
        ("gcc", "gcc -O2", "there is no C compiler 'gcc -O2', which $CC names"),
        ("gcc", "", "there is no C compiler '', which $CC names"),
    ],
)
def test_a_gpu_needs_the_compiler_that_triton_calls(
    gpu: Path,
    monkeypatch: pytest.MonkeyPatch,
    present: str,
    named: str | None,
    missing: str | None,
) -> None:
    for name in (present, "Python.h"):
        (gpu / name).touch(mode=0o755)
    if named is not None:
        monkeypatch.setenv("CC", named)
    assert missing_to_compile(CUDA) == missing


@pytest.mark.usefixtures("compiler")
def test_what_a_run_began_with_is_kept() -> None:
    state = Execution(device="cpu", compiled=True, precision="bf16", why="once").state_dict()
    kept = kept_execution({"execution": state}, CPU)
    assert kept == Execution(device="cpu", compiled=True, precision="bf16", why="as it was begun")
    assert kept.words == "steps in bf16, compiled: as it was begun"
    old = kept_execution({}, CPU)  # of a checkpoint from before there was a choice
    assert old is not None
    assert (old.compiled, old.precision) == (False, "fp32")
    assert kept_execution({"execution": {**state, "device": "cuda"}}, CPU) is None


@pytest.mark.parametrize(
    ("word", "flags", "precision"),
    [
        (None, "avx512f amx_bf16 amx_tile", "fp32"),
        ("auto", "avx512f amx_bf16 amx_tile", "bf16"),
        ("auto", "avx512f avx512_bf16", "fp32"),
        ("bf16", "avx2", "bf16"),
        ("fp32", "amx_bf16", "fp32"),
    ],
)
def test_the_precision_of_a_processor(
    make_plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
    word: str | None,
    flags: str,
    precision: str,
) -> None:
    monkeypatch.setattr(device, "_processor_entry", lambda _name: flags)
    assert execution_of(make_plan(precision=word).recipe, CPU).precision == precision


def test_bf16_rounds_the_networks_and_not_the_terms(
    tiny_data: Dataset, make_plan: MakePlan, first_batch: Callable[[Dataset, int], Batch]
) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        plan = make_plan("drg+dsr", precision=precision)
        learner = build_learner(plan, tiny_data, steps_per_epoch=1, device=CPU)
        assert isinstance(learner.step, Step)
        kinds: list[torch.dtype] = []
        classifier = learner.student.get_submodule("classifier.1")
        classifier.register_forward_hook(lambda *given, kinds=kinds: kinds.append(given[2].dtype))
        torch.manual_seed(0)
        learner.step(first_batch(tiny_data, 8), learning_rate=0.01, scale=1.0)
        assert {parameter.dtype for parameter in learner.student.parameters()} == {torch.float32}
        terms = [value for given in learner.step._given.values() for value in given.values.values()]
        assert {term.dtype for term in terms} == {torch.float32}
        found[precision] = (kinds, learner.log.take(ProcessGroup()))
    assert found["fp32"][0] == [torch.float32]
    assert found["bf16"][0] == [torch.bfloat16]
    assert not np.array_equal(found["fp32"][1], found["bf16"][1])
    np.testing.assert_allclose(found["fp32"][1], found["bf16"][1], rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("compile", "yes, please", "'yes, please', expected one of auto, true, false"),
        ("compile", 2, "2, expected one of auto, true, false"),
        ("precision", "fp16", "'fp16', expected one of auto, fp32, bf16"),
    ],
)
def test_wrong_words(make_plan: MakePlan, key: str, value: object, expected: str) -> None:
    values = msgspec.to_builtins(make_plan().recipe)
    with pytest.raises(UserError, match=f"^file: {key}: received {expected}$"):
        recipe_from_values({**values, key: value}, source="file")


def test_the_former_true_is_the_present_auto(make_plan: MakePlan) -> None:
    """Until `auto`, true meant "on CUDA, where it works"; runs and results keep that meaning."""
    former, now = make_plan(compile=True), make_plan()
    assert now.recipe.compile == "auto"
    assert differences(former, now) == differences(now, former) == []
    assert differences(make_plan(compile=False), now) == ["recipe compile: False, now auto"]
    recipe = {**msgspec.to_builtins(former.recipe)}
    assert recipe_of_result({"recipe": recipe})["compile"] == "auto"
    assert recipe_of_result({"recipe": recipe, "compiled": True})["compile"] is True
    assert whole_recipe({"recipe": recipe}) == whole_recipe(
        {"recipe": msgspec.to_builtins(now.recipe), "compiled": False}
    )
