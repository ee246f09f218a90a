"""The plan of studies: its runs, how it goes on, and the pages that are made of its lines."""

import importlib
import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from time import monotonic

import msgspec
import pytest
import torch

from runtime.base.errors import UserError
from tests.support.published import published_recipe
from training import evidence, report
from training.config.idle_keys import read_settings
from training.config.method_registry import METHOD_REGISTRY
from training.config.options import Options
from training.config.recipe import load_recipe, recipe_from_values
from training.evaluation.confidence import read_image_record
from training.studies.costs import measure_cost
from training.studies.evidence_plan import FULL, PLAN, SCALES, STUDIES, TINY, planned_runs
from training.studies.grids import BOTH_GRID, CE_GRID, DRG_GRID, DSR_GRID
from training.studies.pool import run_all
from training.studies.queue_plan import PLAN_FILE
from training.studies.report_pages import other_pages, page_texts
from training.studies.result_lines import Line, merge_lines, read_lines
from training.studies.study_methods import METHODS, StudyMethod
from training.studies.study_run import StudyRun

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_every_run_of_the_plan_has_a_valid_recipe_and_a_folder_of_its_own(scale: object) -> None:
    runs = [run for study in PLAN for run in planned_runs(study, scale)]  # type: ignore[arg-type]
    files = [path for run in runs for path in (run.folder, run.log, run.recipe_file)]
    assert len(set(files)) == 3 * len(runs)
    # If two settings were the same run, it would be measured twice.
    for study in PLAN:
        recipes = [(method.terms, msgspec.json.encode(method.changes)) for method in study.methods]
        assert len(set(recipes)) == len(recipes)


def test_what_decides_comes_first() -> None:
    runs = planned_runs(PLAN[0], FULL)
    assert PLAN[0].name == "main"
    assert {run.recipe.epochs for run in runs} == {200}
    assert [run.method.name for run in runs] == [
        name
        for name in ("ce", "drg+dsr", "drg", "dsr", "ds", "ls", "drg+dsr-paper")
        for _ in range(6)
    ]
    assert [(run.seed, run.arch) for run in runs[:3]] == [
        *((0, "mobilenetv2"), (0, "shufflenetv2"), (1, "mobilenetv2"))
    ]


def test_settings_are_chosen_on_held_out_images() -> None:
    for study in PLAN:
        (fraction,) = {run.recipe.validation_fraction for run in planned_runs(study, FULL)}
        assert fraction == (0.1 if study.chooses else 0.02)


def test_grids_vary_what_their_names_say() -> None:
    methods = {method.name: method for study in PLAN for method in study.methods}
    assert methods["dsr-ema-w0.3"].changes["dsr_weight"] == 0.3
    assert methods["dsr-ema-w0.3"].terms == "dsr"
    assert methods["dsr-mean-warm10"].changes["distillation_warmup_epochs"] == 10
    assert methods["drg-tap3"].changes == {
        "taps": [3],
        "drg_weight": 0.2,
        "temperature": 4.0,
        "head_width": 1.0,
    }
    assert methods["drg+dsr-ema-w1"].terms == "drg+dsr"
    noise = {study.name: study.changes.get("label_noise") for study in PLAN}
    assert (noise["label-noise-20"], noise["label-noise-40"], noise["main"]) == (0.2, 0.4, None)


def test_every_row_of_a_grid_is_one_key_away_from_a_centre_that_is_trained_as_well() -> None:
    """Whatever the recipe has by default."""
    read = {
        (name, run.method.name): read_settings(run.method.terms, msgspec.to_builtins(run.recipe))
        for name in ("grid-ce", "grid-dsr", "grid-drg", "grid-both")
        for run in planned_runs(STUDIES[name], FULL)
    }
    published = published_recipe(
        "cifar", {"epochs": 30, "validation_fraction": 0.1, "thresholds": False}
    )

    def apart(name: str, one: str, other: str) -> set[str]:
        first, second = read[name, one], read[name, other]
        return {key for key in first | second if first.get(key) != second.get(key)}

    for name, centre, terms, grid in (
        ("grid-ce", "ce", "ce", CE_GRID),
        ("grid-drg", "drg-a0.2", "drg", DRG_GRID),
        ("grid-dsr", "dsr-previous-w1", "dsr", DSR_GRID),
        ("grid-both", "drg+dsr-previous-w1", "drg+dsr", BOTH_GRID),
    ):
        assert read[name, centre] == read_settings(terms, msgspec.to_builtins(published))
        for method in (each.name for each in grid):
            teacher = re.search("mean|ema", method)
            own = centre.replace("previous", teacher[0] if teacher else "previous")
            assert len(apart(name, own, method)) == (method != own), method
    # What the rows are compared with: the same head, without the term that the grid is about.
    without = {"drg_weight", "temperature", "distillation_warmup_epochs"}  # nothing is distilled
    assert apart("grid-drg", "drg-a0.2", "ds-single") == without
    assert apart("grid-both", "drg-a0.2", "drg+dsr-previous-w1") <= METHOD_REGISTRY["dsr"].keys


def test_the_dry_run_lists_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evidence.main(["--dry-run", "--only", "label-noise-20"]) == 0
    printed = capsys.readouterr().out
    assert "missing    50 epochs  label-noise-20/cifar100-mobilenetv2-ce-s0\n" in printed
    assert "30 runs: 0 finished, 0 begun, 30 missing" in printed
    assert not list(tmp_path.iterdir())


def test_the_full_plan_is_not_begun_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"finds no CUDA device here.*--scale tiny"):
        evidence.main([])
    with pytest.raises(UserError, match="invalid choice: 'mian'"):
        evidence.main(["--only", "mian"])
    for arguments, words in (
        (["--repeat"], "--repeat does nothing without --queue"),
        (["--queue", "all", "--data-root", "d", "--scale", "tiny"], "--scale .* beside --queue"),
        (["--pairs", "--jobs", "2"], "--jobs does nothing beside --pairs"),
        (["--write-plan", "--only", "main"], "--only does nothing beside --write-plan"),
        (["--keep", "x.jsonl", "--queue", "all"], "--queue does nothing beside --keep"),
        (["--keep", "x.jsonl", "--write-plan"], "--(keep|write-plan) does nothing beside --"),
        (["--keep", "x.jsonl"], "^x.jsonl is not a file; name one of"),
    ):
        with pytest.raises(UserError, match=words):
            evidence.main(arguments)


@pytest.mark.slow
def test_a_tiny_study_is_run_once_and_its_robustness_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "label-noise-20"
    smaller = replace(STUDIES[name], methods=STUDIES[name].methods[1:2])
    monkeypatch.setattr("training.evidence.PLAN", (smaller,))
    monkeypatch.setitem(STUDIES, name, smaller)
    monkeypatch.setattr("training.evidence.ROBUSTNESS_OF", name)
    arguments = ["--scale", "tiny", "--only", name, "--only", "robustness"]
    assert evidence.main([*arguments, "--jobs", "2"]) == 0
    lines = read_lines(Path("runs/tiny/label-noise-20.jsonl"))
    assert sorted((line["arch"], line["method"]) for line in lines) == [
        *(("mobilenetv2", "drg+dsr"), ("shufflenetv2", "drg+dsr"))
    ]
    assert {(line["recipe"]["label_noise"], line["width"]) for line in lines} == {
        *((0.2, 0.25), (0.2, 0.5))
    }
    for line in lines:
        assert line["commit"] != "unknown"
        assert read_image_record(line["images"])["right"].mean() == pytest.approx(line["top1"])
    command = "python training/evidence.py --only {} --scale tiny"
    assert {line["command"] for line in lines} == {command.format(name)}
    robust = Path("runs/tiny/label-noise-20-robustness.jsonl")
    assert [line["command"] for line in read_lines(robust)] == 2 * [command.format("robustness")]
    assert not Path("results").exists()
    results = sorted(Path("runs/tiny").rglob("result.json"))
    stamps = [path.stat().st_mtime_ns for path in [*results, robust]]
    capsys.readouterr()

    assert evidence.main(arguments) == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in [*results, robust]] == stamps


def long_run(folder: Path, data: Path, *, epochs: int) -> StudyRun:
    shared = Options(arch="mobilenetv2", width=0.25, data=str(data), device="cpu")
    values = {"epochs": epochs, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.01}
    recipe = recipe_from_values(values, source="test")
    return StudyRun(StudyMethod("ce"), 0, "s", recipe, folder, shared)


@pytest.mark.slow
def test_runs_that_are_stopped_keep_their_checkpoints_and_go_on(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = long_run(tmp_path, tiny_folder, epochs=30)
    checkpoint = run.folder / "checkpoint.pt"
    finished: list[StudyRun] = []

    def time_is_over_after_an_epoch() -> float:
        return 1000.0 if checkpoint.is_file() else 0.0

    monkeypatch.setattr("training.studies.pool.monotonic", time_is_over_after_an_epoch)
    outcome = run_all([run], jobs=2, minutes=1, on_finish=finished.append)
    assert (outcome.failed, outcome.unfinished, finished) == ([], [run], [])
    assert "stopped, goes on with the next call" in capsys.readouterr().out
    assert run.log.read_text().count("goes on with --resume") == 1

    def interrupted_when_resumed() -> float:
        if "resumed after" in run.log.read_text():
            signal.raise_signal(signal.SIGTERM)
            monkeypatch.setattr("training.studies.pool.monotonic", monotonic)
        return 0.0

    monkeypatch.setattr("training.studies.pool.monotonic", interrupted_when_resumed)
    with pytest.raises(KeyboardInterrupt):
        run_all([run], jobs=1, on_finish=finished.append)
    assert run.log.read_text().count("goes on with --resume") == 2

    outcome = run_all([run], jobs=1, on_finish=finished.append)
    assert (outcome.failed, outcome.unfinished, finished) == ([], [], [run])
    line = run.line()
    assert line is not None
    assert line["epochs"] == 30


# What all made up lines have in common.
FACTS = {
    "width": 1.0,
    "image_size": 32,
    "data": "cifar100",
    "top5": 0.9,
    "ece": 0.05,
    "params": 10,
    "auxiliary_params": 2,
    "train_images": 49000,
    "validation_images": 1000,
    "test_images": 10000,
    "seconds": 1.0,
    "device": "H100",
    "precision": "bf16",
    "versions": {"torch": "2"},
}


def made_up(study: str, methods: Sequence[str], seeds: int) -> list[Line]:
    """Lines of a study with invented figures: each method has one point more than the last."""
    names = [method.name for method in STUDIES[study].methods]
    lines = []
    for run in planned_runs(STUDIES[study], FULL):
        if run.seed >= seeds or run.method.name not in methods:
            continue
        top1 = 0.7 + 0.01 * names.index(run.method.name) + 0.001 * run.seed
        own = {
            "study": study,
            "method": run.method.name,
            "terms": run.method.terms,
            "arch": run.arch,
            "seed": run.seed,
            "epochs": run.recipe.epochs,
            "top1": top1,
            "validation_top1": top1,
            "recipe": msgspec.to_builtins(run.recipe),
            "command": run.options.command,
        }
        lines.append({**FACTS, **own})
    return lines


def block(name: str, results: Path) -> str:
    """What is written between the marks of that name."""
    return report.rendered(f"<!-- results:{name} -->\n<!-- /results -->", results)


def test_a_block_holds_a_short_table_and_the_page_all_the_rest(tmp_path: Path) -> None:
    merge_lines(tmp_path / "main.jsonl", made_up("main", ("ce", "drg+dsr"), seeds=2))
    text = "before\n<!-- results:main -->\nold\n<!-- /results -->\nafter"
    short = report.rendered(text, tmp_path)
    assert "old" not in short
    assert short.startswith("before\n<!-- results:main -->\n")
    assert short.endswith("\n<!-- /results -->\nafter")
    row = "| drg+dsr | 0, 1 | 71.05 ± 0.07 | +1.00 ± 0.00 |"
    assert short.count(f"{row} 5.00 ± 0.00 |\n") == 2  # both students
    assert "[results/main.md](results/main.md)" in short
    assert report.rendered(short, tmp_path) == short
    with pytest.raises(UserError, match=r"the mark results:mian names nothing.*, peers, .*, open"):
        report.rendered(text.replace("main", "mian"), tmp_path)

    page = page_texts(tmp_path)["main.md"]
    assert page.count(row) == 2
    assert "```console\npython training/evidence.py --only main\n```\n" in page
    assert "Hardware: H100, bf16  \nVersions: torch 2\n" in page
    found = " ".join(page.split())
    assert "34 of 42 runs of 200 epochs" in found
    # Of each method, seed 2 is missing.
    assert "(mobilenetv2 and shufflenetv2: ce, drg+dsr, drg, dsr, ds, ls, drg+dsr-paper)" in found


def test_what_is_open_is_one_table(tmp_path: Path) -> None:
    merge_lines(tmp_path / "main.jsonl", made_up("main", ("ce", "drg+dsr"), seeds=2))
    table = block("open", tmp_path)
    command = "`python training/evidence.py --only"
    assert "| [main](results/main.md) | Does DRG+DSR pay" in table
    assert f"| 8 of 42 | {command} main` |" in table
    assert f"| 0 of 90 | {command} peers` |" in table
    assert f"| none | {command} cost` |" in table
    assert "| [main](main.md) | Does DRG+DSR pay" in page_texts(tmp_path)["README.md"]
    assert block("peers", tmp_path).splitlines()[1] == f"Not measured yet: {command} peers`."


def test_a_planned_run_is_measured_if_its_line_has_another_default_that_it_does_not_read(
    tmp_path: Path,
) -> None:
    lines = made_up("main", ("ce", "drg"), seeds=2)
    for line in lines:
        line["recipe"] |= {"taps": [], "drg_weight": 0.2}  # the plan has others for `drg`
    merge_lines(tmp_path / "main.jsonl", lines)
    assert "| 4 of 42 |" in block("open", tmp_path)


def test_a_finished_study_misses_nothing_and_its_grid_names_the_best(tmp_path: Path) -> None:
    names = [method.name for method in STUDIES["grid-drg"].methods]
    merge_lines(tmp_path / "grid-drg.jsonl", made_up("grid-drg", names, seeds=2))
    page = page_texts(tmp_path)["grid-drg.md"]
    assert "Not measured yet" not in page
    assert (
        f"Highest validation top-1: {names[-1]} (82.05 %); over the next, {names[-2]}: "
        "+1.00 ± 0.00."
    ) in page


def test_the_command_of_an_older_line_follows_from_it(tmp_path: Path) -> None:
    """Lines of today state their command."""
    lines = made_up("peers", ("ce", "ls", "drg"), seeds=2)
    for line in lines:
        recipe = load_recipe("digits", {"epochs": 50, "learning_rate": 0.01})
        changes = {"label_smoothing": 0.1} if line["method"] == "ls" else {}
        line |= {"data": "digits", "recipe": msgspec.to_builtins(recipe) | changes}
        del line["command"]
    merge_lines(tmp_path / "rates.jsonl", lines)
    assert (
        "```console\npython training/study.py --study rates --arch mobilenetv2 --image-size 32 "
        "--epochs 50 --terms ce,drg,ls --seeds 2 --set learning_rate=0.01\n```"
    ) in page_texts(tmp_path)["rates.md"]
    merge_lines(tmp_path / "fewer.jsonl", [line for line in lines if line["method"] != "drg"])
    merge_lines(tmp_path / "fewer.jsonl", [line for line in lines if line["seed"] == 0])
    page = page_texts(tmp_path)["fewer.md"]
    commands = re.findall(r"--study fewer --arch mobilenetv2 .*? --terms (\S+) --seeds (\d)", page)
    assert commands == [("ce,ls", "2"), ("drg", "1")]
    for line in lines:
        del line["method"]
    merge_lines(tmp_path / "runs.jsonl", [line for line in lines if line["terms"] == "drg"])
    assert (
        "python training/run.py --arch mobilenetv2 --drg --image-size 32 --epochs 50 --seed SEED "
        "--recipe FILE.yaml  # learning_rate: 0.01\n"
    ) in page_texts(tmp_path)["runs.md"]


def test_the_runs_of_a_study_of_the_queue_are_one_command(tmp_path: Path) -> None:
    lines = made_up("peers", ("ce", "drg"), seeds=2)
    for line in lines:
        name = f"small/{line['arch']}-{line['method']}-s{line['seed']}"
        line["command"] = f"python training/evidence.py --queue {name} --data-root DIR"
    merge_lines(tmp_path / "small.jsonl", lines)
    page = page_texts(tmp_path)["small.md"]
    (command,) = set(re.findall(r"^python .*$", page, re.MULTILINE))  # of both students
    words = shlex.split(command, comments=True)[2:]
    assert words == ["--queue", "small", "--data-root", "DIR", "--repeat"]


def test_results_are_what_the_lines_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for document in (text, readme):
        assert report.rendered(document, ROOT / "results") == document, "run `make results`"
    assert re.findall("<!-- results:(.*) -->", readme) == ["gain"]
    pages = page_texts(ROOT / "results")
    others = {page.name for page in other_pages(ROOT / "results")}
    assert others == {"encoded-accuracy.md", "learned-int8.md", "tuned.md"}  # see the next test
    found = (path for path in (ROOT / "results").glob("*.md") if path.name not in others)
    written = {path.name: path.read_bytes() for path in found}
    assert written == {name: page.encode() for name, page in pages.items()}, "run `make results`"
    marks = re.findall("<!-- results:(.*) -->", text)
    assert "open" in marks
    assert len(marks) == len(set(marks))
    for folder, page in [(ROOT, text), *((ROOT / "results", page) for page in pages.values())]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (folder / target).exists(), f"{target}: run `make results`"
    # And the command writes just that.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "results", "results")
    for name, document in (("RESULTS.md", text), ("README.md", readme)):
        Path(name).write_text(report._BLOCK.sub(r"\1\3", document), encoding="utf-8")
    for name in pages:
        Path("results", name).write_text("old")
    Path("results", "of-lines-that-are-gone.md").write_text("old")
    assert report.main([]) == 0
    assert Path("RESULTS.md").read_text(encoding="utf-8") == text
    assert Path("README.md").read_text(encoding="utf-8") == readme
    left = {path.name: path.read_bytes() for path in Path("results").glob("*.md")}
    assert left.keys() - written.keys() == others
    assert {name: left[name] for name in written} == written


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("learned_int8", ("run", "kind")),
        ("tuned_recipe", ("command", "arm", "seed")),
        ("encoded_accuracy", ("command", "arm", "seed")),
    ],
)
def test_the_page_of_a_benchmark_is_what_its_lines_say(
    name: str, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    benchmark = importlib.import_module(name)
    lines = json.loads(benchmark.TABLE.with_suffix(".json").read_text())
    assert benchmark.TABLE.read_text() == benchmark.table(lines)
    assert len(lines) == len({tuple(line[key] for key in keys) for line in lines})


def test_lines_of_pages_fit_a_window() -> None:
    for name, page in page_texts(ROOT / "results").items():
        in_code = False
        for line in page.splitlines():
            in_code ^= line.startswith("```")
            assert in_code or line.startswith("|") or len(line) <= 140, f"{name}: {line}"


def test_lines_name_all_that_a_table_needs() -> None:
    for file in set((ROOT / "results").glob("*.jsonl")) - {ROOT / PLAN_FILE}:
        for text in file.read_text(encoding="utf-8").splitlines():
            assert {"device", "versions", "seed", "recipe", "data"} <= json.loads(text).keys()


def test_the_cost_of_a_step_is_measured_for_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only has to run, so there are two rounds of the smallest batch, for one student."""
    smallest = ["--batch-size", "2", "--rounds", "2"]
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **others: run([*command, *smallest], **others)
    )
    one = replace(TINY, widths={"mobilenetv2": 0.25}, results=tmp_path)
    assert measure_cost(one, deadline=inf)
    lines = read_lines(tmp_path / "cost.jsonl")
    assert [line["contender"] for line in lines] == ["eager loop", *METHODS]
    assert {line["added_at_deployment"] for line in lines} == {0}
    assert "| mobilenetv2 | zipf-ls |" in block("cost", tmp_path)


def test_the_cost_of_a_step_is_shown_and_not_measured_after_the_time(tmp_path: Path) -> None:
    assert "Not measured yet: `python training/evidence.py --only cost`." in block("cost", tmp_path)
    facts = {"arch": "mobilenetv2", "device": "H100", "torch": "2"}
    times = {"contender": "drg", "ms_per_step": 5.0, "over_ce": 0.034, "images_per_second": 25600.0}
    memory = {"peak_memory_mib": 800.4, "memory_over_ce": 0.0123}
    added = {"added_in_training": 47844, "added_at_deployment": 0}
    file = tmp_path / "cost.jsonl"
    file.write_text(json.dumps({**facts, **times, **memory, **added}) + "\n")
    assert (
        "| mobilenetv2 | drg | 5.00 | +3.4% | 25600 | 800 | +1.2% | 47,844 | 0 | H100 | 2 |"
    ) in block("cost", tmp_path)
    late = replace(TINY, results=tmp_path / "late")
    assert not measure_cost(late, deadline=monotonic())
    assert not late.results.exists()
