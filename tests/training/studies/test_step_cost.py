"""The benchmark of a step: all contenders, what they add, and the batches that they get; sizes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from training import benchmark, sizes
from training.config.recipe import load_recipe
from training.engine.execution import Execution
from training.studies import step_cost
from training.studies.result_lines import read_lines
from training.studies.study_methods import (
    METHODS,
)
from training.studies.variants import methods_named

ROOT = Path(__file__).resolve().parents[3]
BENCHMARK = ["--width", "0.25", "--image-size", "16", "--batch-size", "4", "--device", "cpu"]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def test_the_benchmark_measures_every_contender(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*BENCHMARK, "--steps", "1", "--rounds", "2", "--json"]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [found["contender"] for found in lines] == ["eager loop", "ce", "drg", "dsr", "drg+dsr"]
    assert lines[1]["over_ce"] == 0
    for found in lines:
        expected = 4 / found["ms_per_step"] * 1000
        assert found["images_per_second"] == pytest.approx(expected)
        assert found["peak_memory_mib"] is None
    with pytest.raises(UserError, match="--rounds: received '0', expected a whole number above 0"):
        benchmark.main(["--rounds", "0"])
    with pytest.raises(UserError, match="--terms 'kd' is unknown; choose of ce,ls"):
        benchmark.main(["--terms", "kd"])
    with pytest.raises(UserError, match="image size 8 is out of range; choose 16 to 1024"):
        benchmark.main(["--image-size", "8", "--rounds", "1"])
    with pytest.raises(UserError, match="received --classes 1, expected 2 or more"):
        benchmark.main(["--classes", "1", "--rounds", "1"])


def test_the_benchmark_counts_what_every_method_adds(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are those of recorded runs of the same student."""
    one_head = {"ds": "drg-a0.5", "drg": "drg-a0.2", "drg+dsr": "drg+dsr-paper"}
    words = ",".join(one_head.get(name, name) for name in METHODS)
    assert benchmark.main([*BENCHMARK, "--classes", "10", "--terms", words, "--rounds", "1"]) == 0
    rows = cells(capsys.readouterr().out.partition("\n\n")[2])
    recorded = {
        one_head.get(found["method"], found["method"]): f"{found['auxiliary_params']:,}"
        for found in read_lines(ROOT / "results" / "tiny-digits.jsonl")
    }
    counted = {row[0]: row[6] for row in rows[2:]}
    # No study has trained it. It has the heads of two stages, that DRG has one.
    assert int(counted.pop("dks-like").replace(",", "")) > int(
        recorded["drg-a0.2"].replace(",", "")
    )
    assert counted == {"eager loop": "0", **recorded}
    assert {row[7] for row in rows[2:]} == {"0"}
    assert recorded["byot"] == "151,158"  # so these are not both zero by accident


def test_a_method_is_timed_on_the_batches_that_training_gives_it() -> None:
    plan = benchmark._plan(benchmark._parser().parse_args(BENCHMARK), load_recipe("cifar"))
    dataset = step_cost.random_dataset(plan)
    assert len(np.unique(dataset.train_images[:50].reshape(50, -1), axis=0)) == 50
    batches = {}
    for name in ("ce", "dlb", "cs-kd"):
        row = METHODS[name]
        own = msgspec.structs.replace(plan, methods=row.methods, recipe=row.recipe_on(plan.recipe))
        batches[name] = step_cost._batch(own, dataset, torch.device("cpu"))
    images, labels, rows, partners = batches["ce"]
    assert len(images) == len(labels) == 128
    assert partners is None
    assert images.is_contiguous()
    assert np.array_equal(dataset.train_labels[rows], labels)
    assert torch.equal(batches["dlb"].images, images)
    assert batches["dlb"].partners is None
    paired = batches["cs-kd"]
    assert torch.equal(paired.images, images)
    assert paired.partners is not None
    assert paired.partners.shape == images.shape
    assert not torch.equal(paired.partners, images)


def test_all_contenders_of_a_benchmark_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All compile one function, more often than torch allows by itself, and none stays behind."""
    plan = benchmark._plan(benchmark._parser().parse_args(BENCHMARK), load_recipe("cifar"))
    recipe = msgspec.structs.replace(plan.recipe, batch_size=4, compile=True)
    plan = msgspec.structs.replace(plan, recipe=recipe)
    compiled = []

    def compile_(function: Callable[..., object], **_: object) -> Callable[..., object]:
        compiled.append(function)
        return whole(function, backend="eager", dynamic=False)

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("training.engine.execution.missing_to_compile", lambda _device: None)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        found = step_cost.measure_steps(
            plan, methods_named("drg,tf-kd"), device=torch.device("cpu"), steps=1, rounds=1
        )
    assert [each.contender for each in found] == [
        "eager loop",
        "ce, not compiled",
        "ce",
        "drg",
        "tf-kd",
    ]
    assert len(compiled) == 3


def test_a_benchmark_keeps_the_kernels_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = torch.device("cuda")
    chosen = Execution(device="cuda", compiled=True, precision="bf16")
    monkeypatch.setattr("training.engine.device.choose_device", lambda _word: cuda)
    monkeypatch.setattr("training.engine.device.device_name", lambda _device: "NVIDIA X")
    monkeypatch.setattr("training.engine.execution.execution_of", lambda _recipe, _device: chosen)
    monkeypatch.setattr("training.studies.step_cost.measure_steps", lambda *_, **__: ())
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert benchmark.main([]) == 0
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")


def test_the_table_of_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main(["--arch", "resnet18"]) == 0
    printed = capsys.readouterr().out
    assert "| resnet18 | 11.23 M | 462.8 M | 563.3 M | 592.2 M | 925.3 M | 1,813.6 M |" in printed
