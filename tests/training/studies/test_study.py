"""Studies: their methods, and how they go on run by run."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from runtime.base.errors import GpuError, UserError
from tests.support.noise_arrays import write_noise_arrays
from tests.support.study_lines import line
from training import study
from training.config.method_registry import METHOD_REGISTRY, MethodEntry
from training.config.options import Options, option_parser, recipe_of
from training.config.recipe import load_recipe, parsed_settings
from training.data import load_dataset
from training.evaluation.confidence import read_image_record
from training.studies import local_runs
from training.studies import pool as study_pool
from training.studies.pool import fail_runs
from training.studies.result_lines import merge_lines
from training.studies.study_methods import (
    METHODS,
    StudyMethod,
    method_of,
    without_duplicates,
)
from training.studies.study_run import StudyRun
from training.studies.variants import methods_named

ROOT = Path(__file__).resolve().parents[3]


def study_run(folder: Path, method: StudyMethod, data: str = "d", **shared: Any) -> StudyRun:
    options = Options(arch="a", data=data, device="cpu", **shared)
    return StudyRun(method, 0, "s", load_recipe("digits"), folder, options)


def test_names_with_points_have_files_of_their_own(tmp_path: Path) -> None:
    runs = [study_run(tmp_path, StudyMethod(name), width=0.5) for name in ("w0.3", "w0.5")]
    assert runs[0].arch == "a"
    assert len({path for run in runs for path in (run.folder, run.log, run.recipe_file)}) == 6


def test_students_of_another_width_or_image_size_have_folders_of_their_own(tmp_path: Path) -> None:
    """In one folder, the finished run of one would be taken for a run of the other."""
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


@pytest.fixture
def many_pictures(tmp_path: Path) -> Path:
    """200 training and 9 test pictures as arrays: of the former a quick digest sees 64."""
    return write_noise_arrays(tmp_path / "many", {"train": 200, "test": 9}, size=16, classes=3)


def test_a_finished_run_is_not_taken_for_one_of_pictures_that_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many_pictures: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--arch", "mobilenetv2", "--data", str(many_pictures), "--terms", "ce", "--seeds", "1"]

    def planned() -> StudyRun:
        (run,) = study._planned(study._parser().parse_args(words))
        return run

    former = planned()
    former.folder.mkdir(parents=True)
    result = former.folder / "result.json"
    digests = {"data_digest": former.data_digest, "content_digest": former.content_digest}
    figures = {"top1": 0.1, "top5": 0.5, "ece": 0.1, "recipe": msgspec.to_builtins(former.recipe)}
    result.write_bytes(msgspec.json.encode(figures | digests))
    assert former.line() is not None

    pictures = np.load(many_pictures / "train_images.npy")
    pictures[1] = 255 - pictures[1]
    np.save(many_pictures / "train_images.npy", pictures)
    changed = planned()
    assert changed.data_digest == former.data_digest  # it has not looked at that picture
    with pytest.raises(UserError, match="or their images or labels were changed since"):
        changed.line()
    # A run of an older version states no more than the digest of some pictures.
    del digests["content_digest"]
    result.write_bytes(msgspec.json.encode(figures | digests))
    assert changed.line() is not None


def test_a_run_that_diverged_has_no_line(tmp_path: Path) -> None:
    """Runs of earlier versions ended with figures that are NaN, which JSON writes as null."""
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
        local_runs.start_run(run, jobs)
    assert [environment["OMP_NUM_THREADS"] for environment in started] == ["8", "2", "1"]
    # All other places that divide work among cores call the same function.
    sources = {path: path.read_text() for path in Path(study.__file__).parent.rglob("*.py")}
    assert not [path.name for path, text in sources.items() if "cpu_count" in text]


class FakeRun:
    """A process of a run that goes on until it is told its code."""

    def __init__(self, _command: list[str], *, env: dict[str, str], **_others: object) -> None:
        self.gpus = env.get("CUDA_VISIBLE_DEVICES")
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.mark.parametrize(
    ("count", "named", "device", "expected"),
    [
        (3, None, "auto", ["0", "1", "2", "0"]),
        (3, "5, GPU-a,7", "cuda", ["5", "GPU-a", "7", "5"]),
        (2, "1,3,99,4", "auto", ["1", "3", "1", "3"]),  # 99 is no GPU: CUDA stops there
        (1, None, "auto", [None] * 4),
        (1, "2", "auto", ["2"] * 4),
        (0, "", "auto", [""] * 4),
        (3, None, "cpu", [None] * 4),
    ],
)
def test_runs_of_a_machine_share_its_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    named: str | None,
    device: str,
    expected: list[str | None],
) -> None:
    class Driver:
        @staticmethod
        def cuDeviceGetCount(found: Any) -> int:  # noqa: N802
            found._obj.value = count
            return 0

    def first_device() -> tuple[Driver, None]:
        if not count:
            raise GpuError("the NVIDIA driver finds no GPU", remedy="")
        return Driver(), None

    monkeypatch.setattr("runtime.backends.gpu._first_device", first_device)
    monkeypatch.setattr("subprocess.Popen", FakeRun)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    place = local_runs.LocalRuns()
    options = Options(arch="a", data="d", device=device)
    runs = [
        StudyRun(METHODS["ce"], seed, "s", load_recipe("digits"), tmp_path, options)
        for seed in range(6)
    ]

    def gpus_of(run: StudyRun) -> str | None:
        place.start(run, 4)
        started = place._processes[run.folder]
        assert isinstance(started, FakeRun)
        return started.gpus

    assert [gpus_of(run) for run in runs[:4]] == expected
    ended = place._processes[runs[1].folder]
    assert isinstance(ended, FakeRun)
    ended.code = 0  # of the second GPU's run, so that GPU has the fewest now
    assert gpus_of(runs[4]) == expected[1]


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="the kernel divides time among processes"
)
@pytest.mark.parametrize(
    ("prefix", "nicer"), [([], 0), (["nice"], 10), (["chrt", "--idle", "0"], 19)]
)
def test_a_run_has_the_low_priority_of_the_command_that_starts_it(
    prefix: list[str], nicer: int, tmp_path: Path
) -> None:
    """Niceness counts only within a session, and a run has a session of its own."""
    script = tmp_path / "run.py"
    script.write_text("print(open('/proc/self/autogroup').read())")
    starts = f"""
from pathlib import Path
from training.config.options import Options, option_parser
from training.config.recipe import load_recipe
from training.studies import local_runs
from training.studies.study_methods import METHODS
from training.studies.study_run import StudyRun
local_runs._RUN_COMMAND = Path({str(script)!r})
parent, recipe = Path({str(tmp_path)!r}), load_recipe("digits")
run = StudyRun(METHODS["ce"], 0, "s", recipe, parent, Options(arch="mobilenetv2"))
process = local_runs.start_run(run, 1)
assert process.wait() == 0
print(run.log.read_text())
"""
    command = [*prefix, sys.executable, "-c", starts]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + nicer)
    assert done.stdout.split()[1:3] == ["nice", str(expected)]


def test_methods_are_terms_and_changes() -> None:
    assert [method.terms for method in methods_named("ce,ls,ds,drg,dsr,drg+dsr")] == [
        *("ce", "ce", "drg", "drg", "dsr", "drg+dsr")
    ]
    assert METHODS["ls"].changes == {"label_smoothing": 0.1}
    assert METHODS["ds"].changes == {"drg_weight": 0}
    plain = msgspec.to_builtins(load_recipe("cifar"))
    for method in METHODS.values():
        assert method_of(method.terms, plain | method.changes, data="cifar100") is method
    rare = methods_named("sqrt,balanced,sampled")
    assert [method.changes for method in rare] == [
        {"class_weights": "sqrt"},
        {"class_weights": "balanced"},
        {"balanced_sampling": True},
    ]
    for method in rare:
        assert method_of("ce", plain | method.changes, data="cifar100") is method
    assert method_of("dsr", {**plain, "dsr_teacher": "ema"}, data="cifar100") is METHODS["dsr"]
    photographs = msgspec.to_builtins(load_recipe("folder"))
    assert photographs["label_smoothing"] == METHODS["ls"].changes["label_smoothing"]
    assert method_of("ce", photographs, data="flowers") is METHODS["ce"]
    with pytest.raises(UserError, match="'kd' is unknown; choose of ce,ls"):
        methods_named("ce,kd")


def test_a_new_term_of_the_registry_leaves_the_known_methods_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: method.methods for name, method in METHODS.items()}
    monkeypatch.setitem(METHOD_REGISTRY, "new", MethodEntry("new:New", "term"))
    assert {name: method.methods for name, method in METHODS.items()} == before


def test_a_row_that_would_be_the_training_of_another_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of photographs has label smoothing, so `ce` and `ls` would be the same."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither a known data set"):  # the next check
        study.main(["--arch", "mobilenetv2", "--data", "flowers"])
    assert capsys.readouterr().out == (
        "ls is left out: the recipe has label_smoothing 0.1 by itself, so it would be the same "
        "training as ce; --set label_smoothing=ANOTHER_VALUE tells them apart\n"
    )
    said: list[str] = []

    def names(words: str, data: str, *settings: str) -> list[str]:
        recipe = load_recipe(data, parsed_settings(settings))
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
    given = Namespace(data="cifar10", recipe=None, epochs=None, batch_size=8, fit=None, set=None)
    given.set = ["dsr_teacher=ema", "drg_weight=4e-1"]
    recipe = recipe_of(given)
    assert recipe.batch_size == 8
    assert (recipe.dsr_teacher, recipe.drg_weight, recipe.epochs) == ("ema", 0.4, 200)
    for setting, expected in (
        ("dsr_teacher=best", "command line: dsr_teacher: received 'best', expected one of"),
        ("drg=1", "command line: unknown key 'drg'"),
        ("drg_weight", "expected KEY=VALUE"),
        ("milestones=[0.3", r"--set 'milestones=\[0.3' is not valid YAML"),
    ):
        given.set = [setting]
        with pytest.raises(UserError, match=expected):
            recipe_of(given)


def test_a_setting_is_laid_on_as_an_option_is() -> None:
    """So a recipe of ours that is shortened by it has a shorter warm-up, too."""
    given = Namespace(data="x", recipe=None, epochs=None, batch_size=None, fit=None)
    given.set = ["epochs=6"]
    by_setting = recipe_of(given)
    given.set, given.epochs = None, 6
    assert by_setting == recipe_of(given)
    assert by_setting.warmup_epochs == 1
    given.set = ["epochs=4"]
    with pytest.raises(UserError, match="--epochs and --set epochs are one choice"):
        recipe_of(given)


@pytest.mark.parametrize(
    "module",
    [
        *("training.benchmark", "training.evidence", "training.report", "training.robustness"),
        *("training.run", "training.sizes", "training.study"),
        *("export.build_trt", "export.run", "export.to_triton", "demo.app"),
    ],
)
def test_a_command_starts_without_torch(module: str) -> None:
    """That import takes seconds, in which Ctrl-C would end in a traceback."""
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
    for found in lines:  # with the seeds of one day, another one can make intervals
        right = read_image_record(found["images"])["right"]
        assert right.mean() == pytest.approx(found["top1"])
    assert Path("results/main-tiny-mobilenetv2-x0.25-16px-1-epochs.png").is_file()

    with pytest.raises(UserError, match="is a run of another recipe"):
        study.main([*options, "--terms", "ce", "--seeds", "1", "--set", "momentum=0.8"])

    other = shutil.copytree(tiny_folder, tmp_path / "fold2" / tiny_folder.name)
    np.save(other / "test_labels.npy", np.load(other / "test_labels.npy")[::-1])
    of_other = [str(other) if option == str(tiny_folder) else option for option in options]
    with pytest.raises(
        UserError, match=r"^tiny has the content_digest .* the lines of .*main\.jsonl"
    ):
        study.main([*of_other, "--terms", "ce", "--seeds", "1"])
    Path("results/main.jsonl").unlink()
    with pytest.raises(UserError, match="is a run of other data of that name"):
        study.main([*of_other, "--terms", "ce", "--seeds", "1"])


def test_a_study_of_three_seeds_says_its_differences_with_intervals() -> None:
    figures = {"top5": 0.9, "ece": 0.1, "validation_top1": 0.5, "seconds": 1.0}
    counts = {"params": 1, "auxiliary_params": 0, "test_images": 400}
    lines = [
        line(method, seed, top1 + step * seed, top1=top1 + step * seed, **figures, **counts)
        for method, top1, step in (("ce", 0.5, 0.01), ("drg", 0.6, 0.02))
        for seed in range(3)
    ]
    said = study.tables_of(lines)
    low, high = stats.t.interval(0.95, 2, 11, stats.sem([10, 11, 12]))
    assert f"| drg | 3 | paired t | +11.00 [{low:+.2f} to {high:+.2f}] |" in said
    assert "intervals" not in study.tables_of([each for each in lines if each["seed"] < 2])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the runs")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_no_run_outlives_its_study(
    tmp_path: Path, tiny_folder: Path, tiny_recipe_file: Path, number: signal.Signals
) -> None:
    """A run that goes on would hold its folder when the next call needs it."""
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
    [([], 45), (["--batch-size", "32"], 32), (["--set", "batch_size=32"], 32)],
)
def test_a_data_set_smaller_than_the_default_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: list[str],
    batch_size: int,
) -> None:
    """A default batch size is lowered, as by `training/run.py`; a chosen one must fit."""
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
    if chosen:
        with pytest.raises(UserError, match="batch size 64 does not fit 45 training images"):
            study.main([*options, *(word.replace("32", "64") for word in chosen)])


def test_lines_of_other_images_are_refused_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run_all", lambda *_, **__: pytest.fail("it trains"))
    facts = {"study": "main", "data": tiny_folder.name, "content_digest": "another"}
    merge_lines(Path("results/main.jsonl"), [line("ce", 0, 0.5, **facts)])
    options = ["--arch", "mobilenetv2", "--data", str(tiny_folder)]
    for more in ([], ["--print-commands"]):
        with pytest.raises(UserError, match=r"^tiny has the content_digest \w+, but the lines of"):
            study.main([*options, *more])


def test_another_image_size_of_the_same_data_is_taken_and_other_data_of_that_size_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of digits is made of pixels, and they have others at another size."""
    monkeypatch.chdir(tmp_path)
    results = Path("results/main.jsonl")
    digest = load_dataset("digits", image_size=16, progress=False).content_digest()
    merge_lines(results, [line("ce", 0, 0.5, study="main", image_size=16, content_digest=digest)])

    def plan(size: int) -> int:
        options = ["--arch", "mobilenetv2", "--terms", "ce", "--seeds", "1", "--print-commands"]
        return study.main([*options, "--image-size", str(size)])

    assert (plan(16), plan(32)) == (0, 0)
    merge_lines(results, [line("ce", 0, 0.5, study="main", image_size=32, content_digest="other")])
    assert plan(16) == 0
    with pytest.raises(
        UserError, match=r"^digits has the content_digest \w+, but .* are of other:"
    ):
        plan(32)


def test_a_finished_run_is_that_of_a_recipe_that_differs_in_what_it_does_not_read(
    tmp_path: Path,
) -> None:
    def of(name: str, **changes: object) -> StudyRun:
        made = study_run(tmp_path, METHODS[name])
        return replace(made, recipe=load_recipe("digits", changes))

    for name, read, unread in (
        ("ce", "learning_rate", {"taps": [], "drg_weight": 0.2, "dsr_weight": 1.0}),
        ("dsr", "dsr_weight", {"taps": [1], "drg_weight": 0.2}),
    ):
        run = of(name)
        run.folder.mkdir()
        recipe = msgspec.to_builtins(run.recipe)
        result = {"top1": 0.5, "top5": 1.0, "ece": 0.1, "recipe": recipe}
        (run.folder / "result.json").write_bytes(msgspec.json.encode(result))
        assert run.line() == of(name, **unread).line()
        with pytest.raises(UserError, match="is a run of another recipe"):
            of(name, **{read: 0.9}).line()


def test_printed_commands_are_all_that_stdout_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--arch", "mobilenetv2", "--data", str(tiny_folder), "--terms", "ce,drg"]
    assert study.main([*options, "--seeds", "2", "--drop-leaks", "near", "--print-commands"]) == 0
    printed = capsys.readouterr()
    assert "batch size 45" in printed.err
    commands = [shlex.split(line) for line in printed.out.splitlines()]
    asked = [Options(**vars(option_parser().parse_args(words[2:]))) for words in commands]
    assert [(each.drg, each.seed, each.drop_leaks) for each in asked] == [
        (drg, seed, "near") for drg in (False, True) for seed in (0, 1)
    ]
    for each in asked:
        assert each.resume
        assert each.out is not None
        assert each.out.parent == tmp_path / "runs" / "studies" / "main"
        assert load_recipe(str(each.recipe)).batch_size == 45
    assert "--print-commands" not in str(asked[0].command)
    assert not list(tmp_path.glob("results/*"))


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
