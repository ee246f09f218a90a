"""Studies: methods, resuming run by run, lines, tables; and the benchmark's and sizes' tables."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from training import benchmark, sizes, study
from training.config.options import Options
from training.config.recipe import load_recipe, recipe_with_settings
from training.studies import pool as study_pool
from training.studies import step_cost
from training.studies.pool import fail_runs
from training.studies.result_lines import merge_lines, read_lines
from training.studies.study_methods import (
    DISTILLATION_KEYS,
    METHODS,
    StudyMethod,
    idle_keys,
    method_of,
    methods_named,
    without_duplicates,
)
from training.studies.study_run import StudyRun
from training.studies.study_table import best_validated, plot_name, plot_study, study_table
from training.studies.table_rows import rows_of, shared_settings

ROOT = Path(__file__).resolve().parents[3]


def line(method: str, seed: int, top1: float, **others: object) -> dict[str, object]:
    facts = {"study": "main", "data": "d", "arch": "a", "epochs": 2, "seconds": 10.0}
    figures = {"top1": top1, "top5": 1.0, "ece": 0.02, "recipe": {"epochs": 2}}
    costs = {"params": 1000, "auxiliary_params": 0 if method == "ce" else 50}
    return {**facts, **figures, **costs, "method": method, "seed": seed, **others}


def digits_line(method: str, seed: int, top1: float, **changes: object) -> dict[str, object]:
    """A line of the recipe `digits` with what the method and `changes` make of it."""
    changes = {**METHODS[method].changes, **changes}
    recipe = json.loads(msgspec.json.encode(load_recipe("digits", changes)))
    return line(method, seed, top1, data="digits", terms=METHODS[method].terms, recipe=recipe)


def study_run(folder: Path, method: StudyMethod, data: str = "d", **shared: Any) -> StudyRun:
    options = Options(arch="a", data=data, device="cpu", **shared)
    return StudyRun(method, 0, "s", load_recipe("digits"), folder, options)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def test_the_table_has_means_deviations_and_paired_gains() -> None:
    lines = [
        line("ce", 0, 0.70),
        line("ce", 1, 0.72),
        line("ce", 2, 0.90),  # its partner is missing: it counts in the mean, not in the gain
        line("drg", 0, 0.73),
        line("drg", 1, 0.73),
    ]
    rows = cells(study_table(lines))
    assert rows[2][:4] == ["ce", "0, 1, 2", "77.33 ± 11.02", ""]
    assert rows[3][:4] == ["drg", "0, 1", "73.00 ± 0.00", "+2.00 ± 1.41"]
    assert rows[2][6:8] == ["1,000", "0"]
    assert rows[3][6:8] == ["1,000 (+0)", "50"]


def test_validation_top1_is_shown_where_every_line_has_it() -> None:
    lines = [
        line("ce", 0, 0.7, validation_top1=0.61),
        line("ce", 1, 0.7, validation_top1=0.63),
        line("drg", 0, 0.6, validation_top1=0.65),
    ]
    head, _, ce, drg = cells(study_table(lines))
    column = head.index("validation %")
    assert (ce[column], drg[column]) == ("62.00 ± 1.41", "65.00")
    chosen = "Highest validation top-1: drg (65.00 %)"
    assert best_validated(lines) == f"{chosen}; over the next, ce: +4.00."
    lines.append(line("drg", 1, 0.6, validation_top1=0.65))
    assert best_validated(lines) == f"{chosen}; over the next, ce: +3.00 ± 1.41."
    lines.append(line("ls", 7, 0.6, validation_top1=0.64))
    assert best_validated(lines) == f"{chosen}; over the next, ls: no seed in common."
    assert best_validated(lines[2:3]) == f"{chosen}."
    lines[1]["validation_top1"] = None
    assert "validation" not in study_table(lines)


def test_a_row_is_named_by_what_differs_from_the_recipe_of_its_data() -> None:
    """Whichever was measured first; what is the default has no mark."""
    lines = [
        digits_line("drg", 0, 0.6, distillation_warmup_epochs=0.0),
        digits_line("drg+dsr", 0, 0.6, dsr_teacher="ema", distillation_warmup_epochs=0.0),
        digits_line("drg", 0, 0.7),
        digits_line("ls", 0, 0.5),  # its smoothing is what its name says
        digits_line("byot", 0, 0.5),
    ]
    assert [row.name for row in rows_of(lines)] == [
        "drg",
        "drg (distillation_warmup_epochs=0.0)",
        "drg+dsr (dsr_teacher=ema, distillation_warmup_epochs=0.0)",
        "ls",
        "byot",
    ]


def test_what_all_rows_share_is_said_once() -> None:
    lines = [
        digits_line("ce", 0, 0.5, learning_rate=0.01, tap=3, label_smoothing=0.3),
        digits_line("ls", 0, 0.5, learning_rate=0.01),  # has a smoothing of its own
        digits_line("dsr", 0, 0.5, learning_rate=0.01, dsr_weight=0.3, tap=3, label_smoothing=0.3),
    ]
    assert shared_settings(lines) == {"learning_rate": 0.01, "label_smoothing": 0.3}
    assert [row.name for row in rows_of(lines)] == ["ce", "ls", "dsr (dsr_weight=0.3)"]
    # What only the head reads parts no rows that have none.
    assert shared_settings(lines[:1]) == {"learning_rate": 0.01, "label_smoothing": 0.3}
    planned = digits_line("drg", 0, 0.5, tap=3) | {"method": "drg-tap3"}
    assert [row.name for row in rows_of([digits_line("ce", 0, 0.5), planned])] == [
        "ce",
        "drg-tap3",
    ]


def test_settings_that_a_method_does_not_read_part_no_rows() -> None:
    lines = [
        digits_line("ce", 1, 0.5, distillation_warmup_epochs=0.0, dsr_teacher="ema"),
        digits_line("ce", 0, 0.4),
        digits_line("dsr", 0, 0.5),
        digits_line("dsr", 1, 0.6, tap=1, dsr_momentum=0.5),  # the momentum is of `ema`
        digits_line("dsr", 0, 0.7, dsr_teacher="ema"),
        digits_line("dsr", 0, 0.7, dsr_teacher="ema", dsr_momentum=0.5),
    ]
    rows = cells(study_table(lines))[2:]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("ce", "0, 1", ""),
        ("dsr", "0, 1", "+10.00 ± 0.00"),
        ("dsr (dsr_teacher=ema)", "0", "+30.00"),
        ("dsr (dsr_teacher=ema, dsr_momentum=0.5)", "0", "+30.00"),
    ]


def test_idle_keys_are_those_that_the_terms_do_not_read() -> None:
    recipe = msgspec.to_builtins(load_recipe("digits"))
    assert idle_keys("drg+dsr", recipe) == {"dsr_momentum"}
    assert idle_keys("drg+dsr", {**recipe, "dsr_teacher": "ema"}) == set()
    assert idle_keys("dsr", recipe) == {"dsr_momentum", "drg_weight", "tap", "head_width"}
    # `ds` trains the head, but nothing is distilled.
    ds = {**recipe, **METHODS["ds"].changes}
    dsr_keys = {"dsr_weight", "dsr_teacher", "dsr_momentum"}
    assert idle_keys("drg", ds) == {*dsr_keys, "temperature", "distillation_warmup_epochs"}
    assert idle_keys("ce", recipe) == DISTILLATION_KEYS


def test_a_gain_is_over_cross_entropy_of_the_same_recipe() -> None:
    lines = [
        digits_line("ce", 0, 0.5),
        digits_line("ce", 0, 0.4, learning_rate=0.4),
        digits_line("drg", 0, 0.6, distillation_warmup_epochs=0.0),
        digits_line("drg", 0, 0.6, learning_rate=0.4),
        digits_line("ls", 0, 0.7, learning_rate=0.4),
        digits_line("drg", 0, 0.9, learning_rate=0.8),
    ]
    rows = cells(study_table(lines))[2:]
    assert [(row[0], row[3]) for row in rows] == [
        ("ce", ""),
        ("ce (learning_rate=0.4)", ""),
        ("drg (distillation_warmup_epochs=0.0)", "+10.00"),
        ("drg (learning_rate=0.4)", "+20.00"),
        ("drg (learning_rate=0.8)", ""),  # without a partner
        ("ls (learning_rate=0.4)", "+30.00"),
    ]


def test_names_with_points_have_files_of_their_own(tmp_path: Path) -> None:
    runs = [study_run(tmp_path, StudyMethod(name), width=0.5) for name in ("w0.3", "w0.5")]
    assert runs[0].arch == "a"
    assert len({path for run in runs for path in (run.folder, run.log, run.recipe_file)}) == 6


def test_students_of_another_width_or_image_size_have_folders_of_their_own(tmp_path: Path) -> None:
    """Else the finished run of one would be taken for that of the other."""
    folders = [
        study_run(tmp_path, METHODS["ce"], width=width, image_size=image_size).folder.name
        for width, image_size in ((1.0, None), (0.5, None), (1.0, 16), (0.5, 16))
    ]
    assert folders == ["d-a-ce-s0", "d-a-x0.5-ce-s0", "d-a-16px-ce-s0", "d-a-x0.5-16px-ce-s0"]


def test_a_run_of_a_study_is_asked_for_its_own_folder_recipe_and_terms(tmp_path: Path) -> None:
    run = study_run(tmp_path, METHODS["drg"], data="-x", data_root=Path("-root"), command="study")
    assert run.folder.name == "-x-a-drg-s0"
    assert run.options == Options(
        arch="a",
        drg=True,
        data="-x",
        data_root=Path("-root"),
        device="cpu",
        recipe=str(tmp_path / "-x-a-drg-s0.yaml"),
        out=tmp_path / "-x-a-drg-s0",
        resume=True,
        command="study",
    )


def test_a_run_that_diverged_has_no_line(tmp_path: Path) -> None:
    """Runs of earlier versions ended with NaN as figures, which JSON has as null."""
    run = study_run(tmp_path, METHODS["ce"])
    run.folder.mkdir()
    figures = {"top1": 0.1, "top5": 0.5, "recipe": msgspec.to_builtins(run.recipe)}
    result = run.folder / "result.json"
    result.write_bytes(msgspec.json.encode({**figures, "ece": float("nan")}))
    with pytest.raises(UserError, match=r"no number for ece: its run diverged; remove .*d-a-ce-s0"):
        run.line()
    result.write_bytes(msgspec.json.encode({**figures, "ece": 0.1}))
    line = run.line()
    assert line is not None
    assert (line["study"], line["method"], line["ece"]) == ("s", "ce", 0.1)


def test_runs_share_the_cores_that_they_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that is pinned to a few of a machine's cores must not start threads for all."""
    started: list[dict[str, str]] = []

    def popen(_command: list[str], *, env: dict[str, str], **_others: object) -> None:
        started.append(env)

    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setattr("subprocess.Popen", popen)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = study_run(tmp_path, METHODS["ce"])
    for jobs in (1, 3, 9):
        study_pool._start(run, jobs)
    assert [environment["OMP_NUM_THREADS"] for environment in started] == ["8", "2", "1"]
    # The other places that divide work among cores ask the same function.
    sources = {path: path.read_text() for path in Path(study.__file__).parent.rglob("*.py")}
    assert not [path.name for path, text in sources.items() if "cpu_count" in text]


def test_lines_are_replaced_by_those_of_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "results" / "main.jsonl"
    merge_lines(path, [line("ce", 0, 0.5), line("ce", 1, 0.6)])
    # A line from before the recipe had the key `label_noise` is of the same run.
    merge_lines(path, [line("ce", 1, 0.7, recipe={"epochs": 2, "label_noise": 0.0})])
    merge_lines(path, [line("ce", 1, 0.7), line("ce", 0, 0.9, recipe={"epochs": 9})])
    found = [
        (found["seed"], found["recipe"]["epochs"], found["top1"]) for found in read_lines(path)
    ]
    assert found == [(0, 2, 0.5), (1, 2, 0.7), (0, 9, 0.9)]
    path.write_text("{")
    with pytest.raises(UserError, match="holds a line that is not a JSON object"):
        read_lines(path)


def test_lines_of_other_weights_or_other_noise_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "main.jsonl"
    old, pretrained = line("ce", 0, 0.5), {**line("ce", 0, 0.6), "weights": "torchvision"}
    merge_lines(path, [old, pretrained, {**old, "noise_seed": 1}])
    assert len(read_lines(path)) == 3
    # What a line does not say was the default.
    merge_lines(path, [{**old, "weights": "random", "noise_seed": 0, "top1": 0.9}])
    assert [found["top1"] for found in read_lines(path)] == [0.6, 0.5, 0.9]


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot_study(tmp_path / "plot.png", [line("ce", 0, 0.7), line("drg", 0, 0.8)])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_every_student_has_a_plot_of_its_own() -> None:
    students = [{"width": width, "image_size": size} for width in (0.5, 1.0) for size in (16, 32)]
    assert len({plot_name("main", line("ce", 0, 0.7, **student)) for student in students}) == 4


def test_methods_are_terms_and_changes() -> None:
    assert [method.terms for method in methods_named("ce,ls,ds,drg,dsr,drg+dsr")] == [
        *("ce", "ce", "drg", "drg", "dsr", "drg+dsr")
    ]
    assert METHODS["ls"].changes == {"label_smoothing": 0.1}
    assert METHODS["ds"].changes == {"drg_weight": 0}
    plain = msgspec.to_builtins(load_recipe("cifar"))
    for method in METHODS.values():
        assert method_of(method.terms, plain | method.changes, data="cifar100") is method
    assert method_of("dsr", {**plain, "dsr_teacher": "ema"}, data="cifar100") is METHODS["dsr"]
    photographs = msgspec.to_builtins(load_recipe("folder"))
    assert photographs["label_smoothing"] == METHODS["ls"].changes["label_smoothing"]
    assert method_of("ce", photographs, data="flowers") is METHODS["ce"]
    with pytest.raises(UserError, match="'kd' is unknown; choose of ce,ls"):
        methods_named("ce,kd")


def test_a_row_that_would_be_the_training_of_another_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of photographs smooths labels: `ce` and `ls` would differ by chance alone."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither a known data set"):  # which is looked at next
        study.main(["--arch", "mobilenetv2", "--data", "flowers"])
    assert capsys.readouterr().out == (
        "ls is left out: the recipe has label_smoothing 0.1 by itself, so it would be the same "
        "training as ce; --set label_smoothing=ANOTHER_VALUE tells them apart\n"
    )
    said: list[str] = []

    def names(words: str, data: str, *settings: str) -> list[str]:
        recipe = recipe_with_settings(load_recipe(data), settings)
        return [
            method.name
            for method in without_duplicates(methods_named(words), recipe, say=said.append)
        ]

    assert names("ls,drg,ce", "folder") == ["drg", "ce"]
    assert names("ce,ds,drg", "cifar", "drg_weight=0", "temperature=2") == ["ce", "drg"]
    assert [sentence.split(":")[0] for sentence in said] == ["ls is left out", "ds is left out"]
    assert names("ce,ls", "folder", "label_smoothing=0") == ["ce", "ls"]
    assert names(",".join(METHODS), "cifar") == list(METHODS)
    assert len(said) == 2


def test_settings_lie_on_top_of_a_recipe() -> None:
    recipe = recipe_with_settings(load_recipe("cifar"), ["dsr_teacher=ema", "drg_weight=4e-1"])
    assert (recipe.dsr_teacher, recipe.drg_weight, recipe.epochs) == ("ema", 0.4, 200)
    with pytest.raises(UserError, match="--set: dsr_teacher: received 'best', expected one of"):
        recipe_with_settings(recipe, ["dsr_teacher=best"])
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        recipe_with_settings(recipe, ["drg_weight"])
    with pytest.raises(UserError, match=r"--set 'milestones=\[0.3' is not valid YAML"):
        recipe_with_settings(recipe, ["milestones=[0.3"])


@pytest.mark.parametrize(
    "module",
    [
        *("training.benchmark", "training.evidence", "training.report", "training.robustness"),
        *("training.run", "training.sizes", "training.study"),
        *("export.build_trt", "export.run", "export.to_triton", "demo.app"),
    ],
)
def test_a_command_starts_without_torch(module: str) -> None:
    """Ctrl-C in the seconds of that import would be a traceback: nothing catches it yet."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_study_is_resumed_run_by_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    tiny_recipe_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--arch", "mobilenetv2", "--width", "0.25", "--data", str(tiny_folder)]
    options += ["--recipe", str(tiny_recipe_file), "--epochs", "1", "--jobs", "2"]
    assert study.main([*options, "--terms", "ce", "--seeds", "1"]) == 0
    first = tmp_path / "runs" / "studies" / "main" / "tiny-mobilenetv2-x0.25-ce-s0"
    stamp = (first / "result.json").stat().st_mtime_ns
    capsys.readouterr()

    assert study.main([*options, "--terms", "ce,ls,drg+dsr", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 3 runs are finished" in printed
    assert (first / "result.json").stat().st_mtime_ns == stamp
    assert not (tmp_path / "runs" / "latest").exists()
    lines = [json.loads(text) for text in Path("results/main.jsonl").read_text().splitlines()]
    assert [(found["study"], found["method"], found["terms"]) for found in lines] == [
        ("main", "ce", "ce"),
        ("main-ls", "ls", "ce"),
        ("main", "drg+dsr", "drg+dsr"),
    ]
    assert lines[1]["recipe"]["label_smoothing"] == 0.1
    command = "python training/study.py --arch mobilenetv2 --width 0.25 --data tiny "
    command += "--recipe tiny.yaml --epochs 1 --terms"
    assert lines[0]["command"] == f"{command} ce --seeds 1"
    assert lines[2]["command"] == f"{command} ce,ls,drg+dsr --seeds 1"
    assert (first / "result.json").read_text().count("study.py") == 1
    assert str(tiny_folder.parent) not in Path("results/main.jsonl").read_text()
    assert "| drg+dsr | 0 |" in printed
    assert Path("results/main-tiny-mobilenetv2-x0.25-16px-1-epochs.png").is_file()

    with pytest.raises(UserError, match="is a run of another recipe"):
        study.main([*options, "--terms", "ce", "--seeds", "1", "--set", "momentum=0.8"])

    other = shutil.copytree(tiny_folder, tmp_path / "fold2" / tiny_folder.name)
    np.save(other / "test_labels.npy", np.load(other / "test_labels.npy")[::-1])
    of_other = [str(other) if option == str(tiny_folder) else option for option in options]
    with pytest.raises(UserError, match="is a run of other data of that name"):
        study.main([*of_other, "--terms", "ce", "--seeds", "1"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the runs")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_no_run_outlives_its_study(
    tmp_path: Path, tiny_folder: Path, tiny_recipe_file: Path, number: signal.Signals
) -> None:
    """It would be in the way of the next call."""
    command = [sys.executable, ROOT / "training" / "study.py", "--arch", "mobilenetv2"]
    command += ["--width", "0.25", "--data", str(tiny_folder), "--recipe", str(tiny_recipe_file)]
    command += ["--epochs", "400", "--terms", "ce", "--seeds", "1", "--device", "cpu"]
    log = tmp_path / "runs" / "studies" / "main" / "tiny-mobilenetv2-x0.25-ce-s0.log"
    with subprocess.Popen(command, cwd=tmp_path) as process:
        _wait_for_text(log, "\nepoch ")
        process.send_signal(number)
    _wait_for_text(log, "goes on with --resume")
    assert "epoch 400/400" not in log.read_text()


def _wait_for_text(file: Path, text: str) -> None:
    deadline = monotonic() + 60
    while not (file.is_file() and text in file.read_text()):
        assert monotonic() < deadline, f"{file.name} lacks {text!r}"
        sleep(0.05)


@pytest.mark.parametrize(
    ("chosen", "batch_size"),
    [([], 45), (["--batch-size", "64"], 64), (["--set", "batch_size=64"], 64)],
)
def test_a_data_set_smaller_than_the_default_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: list[str],
    batch_size: int,
) -> None:
    """As `training/run.py` does it; what the user chose is refused there if it does not fit."""
    asked: list[StudyRun] = []

    def run_none(runs: list[StudyRun], **_others: object) -> study_pool.PoolResult:
        asked.extend(runs)
        return study_pool.PoolResult([], [])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run_all", run_none)
    options = ["--arch", "mobilenetv2", "--data", str(tiny_folder), "--terms", "ce,drg"]
    assert study.main([*options, *chosen]) == 0
    assert {run.recipe.batch_size for run in asked} == {batch_size}
    assert ("batch size 45: there are 45" in capsys.readouterr().out) == (batch_size == 45)


def test_a_mistake_in_the_data_is_found_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither a known data set"):
        study.main(["--arch", "mobilenetv2", "--data", "nowhere"])
    assert not list(tmp_path.iterdir())


def test_why_runs_failed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "d-a-ce-s0.log"
    failed = [SimpleNamespace(log=log), SimpleNamespace(log=tmp_path / "d-a-ce-s1.log")]
    for said, why in (
        ("error: batch size 64 does not fit\n", " (batch size 64 does not fit)"),
        ("epoch 1\nerror: old\nepoch 2\nerror: new\n", " (new)"),
        ("Killed\n", ""),
    ):
        log.write_text(said)
        assert fail_runs(failed, of=3) == 1
        assert f"error: 2 of 3 runs failed{why}: see {log}" in capsys.readouterr().err


BENCHMARK = ["--width", "0.25", "--image-size", "16", "--batch-size", "4", "--device", "cpu"]


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


def test_the_benchmark_counts_what_every_method_adds(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures for peers and heads are those of the recorded runs of that student."""
    words = ",".join(METHODS)
    assert benchmark.main([*BENCHMARK, "--classes", "10", "--terms", words, "--rounds", "1"]) == 0
    rows = cells(capsys.readouterr().out.partition("\n\n")[2])
    recorded = {
        found["method"]: f"{found['auxiliary_params']:,}"
        for found in read_lines(Path(__file__).parents[3] / "results" / "tiny-digits.jsonl")
    }
    assert {row[0]: row[6] for row in rows[2:]} == {"eager loop": "0", **recorded}
    assert {row[7] for row in rows[2:]} == {"0"}
    assert recorded["byot"] == "151,158"  # none of both is zero by accident


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
    recipe = msgspec.structs.replace(plan.recipe, batch_size=4)
    plan = msgspec.structs.replace(plan, recipe=recipe)
    compiled = []

    def compile_(function: Callable[..., object], **_: object) -> Callable[..., object]:
        compiled.append(function)
        return whole(function, backend="eager", dynamic=False)

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("training.engine.build.can_compile", lambda _device: True)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        found = step_cost.measure_steps(
            plan, methods_named("drg,tf-kd"), device=torch.device("cpu"), steps=1, rounds=1
        )
    assert [each.contender for each in found] == ["eager loop", "ce", "drg", "tf-kd"]
    assert len(compiled) == 3


def test_the_table_of_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main(["--arch", "resnet18"]) == 0
    printed = capsys.readouterr().out
    assert "| resnet18 | 11.23 M | 462.8 M | 563.3 M | 592.2 M | 925.3 M | 1,813.6 M |" in printed
