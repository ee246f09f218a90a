"""The queue: its plan on file, pairs of runs, pausing, and the lines that it keeps."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import msgspec
import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from tests.support import study_lines
from training import evidence
from training.config.options import Options
from training.config.plan import Plan
from training.config.recipe import load_recipe
from training.data import Dataset, load_dataset
from training.data.splits import rows_of_run
from training.engine.build import build_batches, build_learner
from training.engine.optimizers import distillation_scale, learning_rate
from training.evaluation.confidence import read_image_record
from training.studies import run_queue, waiting
from training.studies.corruptions import SEVERITIES
from training.studies.pool import epochs_done, run_all
from training.studies.queue_plan import (
    PLAN_FILE,
    QueueStudy,
    add_to_plan,
    chosen_lines,
    read_plan,
    run_of,
)
from training.studies.queue_studies import QUEUE, QUEUED, plan_lines
from training.studies.result_lines import merge_lines, read_lines
from training.studies.study_methods import METHODS
from training.studies.study_run import StudyRun

ROOT = Path(__file__).resolve().parents[3]
ENDS = ("", "-robustness")  # of the names of a study's files
CPU = torch.device("cpu")
SMALL = QueueStudy(
    "small",
    "Does the queue run?",
    methods=("ce", "drg-multi-a0.5"),
    seeds=(0,),
    epochs=2,
    data="tiny",
    image_size=16,
    students=(("mobilenetv2", 0.25),),
    settings={"batch_size": 8, "ema_decay": 0.9, "validation_fraction": 0.2},
    folds=True,
)


def test_the_plan_on_file_is_what_the_studies_say() -> None:
    assert read_plan(ROOT / PLAN_FILE) == plan_lines(), "python training/evidence.py --write-plan"
    names = [line.name for line in plan_lines()]
    assert len(set(names)) == len(names)


def test_a_planned_run_has_the_terms_as_published_where_its_line_leaves_them_open(
    tmp_path: Path,
) -> None:
    """The plan was written with recipes that had them so."""
    lines = [line for line in plan_lines() if line.study == "imagenette-peers"]
    recipes = {line.method: run_of(line, data_root=tmp_path).recipe for line in lines}
    assert (recipes["dks-like"].drg_weight, recipes["dks-like"].taps) == (0.2, ())
    chosen = recipes["drg-multi-a1+dsr-fade"]
    assert (chosen.drg_weight, chosen.taps, chosen.dsr_fade) == (1.0, (2, 3), True)


def test_every_run_of_the_plan_has_a_recipe_and_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = [run_of(line, data_root=tmp_path) for line in plan_lines()]
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        assert run.recipe.warmup_epochs > 0
        assert run.recipe.ema_decay > 0
        assert not run.recipe.thresholds  # all images that are held out judge


@pytest.mark.parametrize("share", [10, 25, 50])
def test_a_share_of_the_images_is_trained_as_all_are_step_by_step(
    share: int, tmp_path: Path
) -> None:
    """Steps, learning rates and weights of the terms: only the number of images differs."""
    labels = np.repeat(np.arange(10), 300)
    images = np.zeros((3000, 2, 2, 3), np.uint8)
    spec = InputSpec(size=2, resize=2, crop=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset = Dataset("x", tuple("abcdefghij"), spec, images, labels, images, labels)

    def schedule(study: str) -> list[tuple[float, float]]:
        line = next(line for line in plan_lines() if line.study == study)
        recipe = run_of(line, data_root=tmp_path).recipe
        train, _ = rows_of_run(dataset, recipe)
        steps = len(train) // recipe.batch_size
        of_step = [
            {"step": step, "steps_per_epoch": steps} for step in range(steps * recipe.epochs)
        ]
        return [(learning_rate(recipe, **x), distillation_scale(recipe, **x)) for x in of_step]

    assert schedule(f"imagenette-share-{share}") == schedule("imagenette-confirm")


def test_what_is_planned_keeps_its_meaning(tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    assert add_to_plan(SMALL.lines(), file) == 2
    before = file.read_bytes()
    assert add_to_plan(SMALL.lines(), file) == 0
    assert file.read_bytes() == before
    first, _ = SMALL.lines()
    other = msgspec.structs.replace(first, width=0.5)
    with pytest.raises(UserError, match=r"has another run small/mobilenetv2-ce-s0: .*keeps its"):
        add_to_plan([other], file)
    file.write_text('{"name": 3}\n')
    with pytest.raises(UserError, match="line 1 is none of a plan"):
        read_plan(file)
    with pytest.raises(UserError, match=r"nothing\.jsonl cannot be read"):
        read_plan(tmp_path / "nothing.jsonl")


def test_runs_are_named_by_study_or_one_by_one() -> None:
    lines = SMALL.lines()
    assert chosen_lines(lines, ["all"]) == chosen_lines(lines, ["small"]) == lines
    assert chosen_lines(lines, ["small/mobilenetv2-ce-s0"]) == lines[:1]
    assert chosen_lines(lines, ["all"], not_in_all={"small"}) == []
    assert chosen_lines(lines, ["all", "small"], not_in_all={"small"}) == lines
    with pytest.raises(UserError, match="--queue 'smal' is neither a study nor a run of the plan"):
        chosen_lines(lines, ["smal"])
    with pytest.raises(UserError, match="--queue needs --data-root DIR"):
        evidence.main(["--queue", "all"])


def test_all_trains_neither_dropped_runs_nor_a_study_that_confirms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The confirmation is trained at its own commit, and filters have chosen."""
    monkeypatch.chdir(tmp_path)
    add_to_plan(plan_lines())
    assert evidence.main(["--queue", "all", "--data-root", "d", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    studies = {line.split()[3].split("/")[0] for line in printed.splitlines()[:-1]}
    others = {"imagenette-filter", "cifar100-filter-full", "cifar100-filter-few"}
    others |= {"imagenette-confirm", "cifar100-filter-memorised"}
    assert studies == set(QUEUED) - others
    assert evidence.main(["--queue", "imagenette-confirm", "--data-root", "d", "--dry-run"]) == 0
    assert "320 runs: 0 finished" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_all_methods_of_a_seed_start_alike_and_see_the_same_images(
    tmp_path: Path, tiny_data: Dataset, arch: str
) -> None:
    """Pairs share the student's first weights, the order of images, and what is held out."""
    root, name = tmp_path, "data"
    write_with_four_classes(root / name, tiny_data)
    own = msgspec.structs.replace
    lines = [own(line, data=name, image_size=16) for line in QUEUE[0].lines() if line.arch == arch]
    settings = {"batch_size": 4, "validation_fraction": 0.2}
    data = load_dataset(str(root / name), image_size=16)
    seen: dict[int, list[object]] = {}
    for line in lines:
        run = run_of(own(line, settings={**line.settings, **settings}), data_root=root)
        plan = Plan(
            arch=arch,
            width=line.width,
            methods=run.method.methods,
            data=data.name,
            data_argument=name,
            data_root=None,
            class_names=data.class_names,
            input=data.input,
            seed=run.seed,
            weights="random",
            recipe=run.recipe,
        )
        rows, validation = rows_of_run(data, run.recipe)
        batches = build_batches(plan, data, rows, device=CPU)
        learner = build_learner(plan, data, steps_per_epoch=len(batches), device=CPU)
        weights = torch.cat([p.detach().flatten() for p in learner.student.parameters()])
        order = [batch.rows.tolist() for epoch in (0, 1) for batch in batches.epoch(epoch)]
        draws = torch.rand(4, generator=learner.generator)
        shared = (weights, order, validation.tolist(), draws.tolist(), torch.rand(2).tolist())
        seen.setdefault(run.seed, []).append(shared)
    assert set(seen) == {0, 1}
    for shared in seen.values():
        assert len(shared) == len(QUEUE[0].methods)
        for other in shared[1:]:
            assert torch.equal(other[0], shared[0][0])  # type: ignore[index]
            assert other[1:] == shared[0][1:]  # type: ignore[index]
    assert seen[0][0][1:3] != seen[1][0][1:3]  # type: ignore[index]


def write_with_four_classes(folder: Path, data: Dataset) -> None:
    """The pictures of `data` as a folder of arrays; with fewer classes, some shapes are refused."""
    folder.mkdir()
    for split, images in (("train", data.train_images), ("test", data.test_images)):
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(len(images)) % 4)
    (folder / "classes.txt").write_text("a\nb\nc\nd")


@pytest.fixture
def queue_folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data of SMALL."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "data" / "tiny")
    return tmp_path


class Pretended:
    """A place whose runs end at once: finished, or failed while `fails`."""

    usual_jobs = 1
    fails = False
    digest: dict[str, object] = {}  # noqa: RUF012

    def start(self, run: StudyRun, jobs: int) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        if self.fails:
            (run.folder / "checkpoint.pt").touch()
            return
        stated = {"arch": run.arch, "data": "tiny", "seed": run.seed, "terms": "ce", "epochs": 2}
        stated["image_size"] = 16
        figures = {"top1": 0.4321, "top5": 1.0, "ece": 0.1, "seconds": 7.0, "width": 0.25}
        recipe = {"recipe": msgspec.to_builtins(run.recipe), "command": run.options.command}
        result = stated | figures | recipe | self.digest
        (run.folder / "result.json").write_bytes(msgspec.json.encode(result))
        (run.folder / "images.json").write_text("{}")

    def poll(self, run: StudyRun) -> int | None:
        return 1 if self.fails else 0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> type[Pretended]:
    monkeypatch.setattr("training.studies.pool.LocalRuns", Pretended)
    monkeypatch.setattr(Pretended, "fails", False)
    return Pretended


@pytest.mark.usefixtures("pretended")
def test_no_accuracy_is_printed_of_runs_of_a_study_that_confirms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever saw it could stop where it looks best."""
    monkeypatch.chdir(tmp_path)
    printed = {}
    for roles in ({}, {"chosen": "drg-multi-a0.5"}):
        study = replace(SMALL, name=f"small{len(roles)}", roles=roles)
        monkeypatch.setattr(waiting, "QUEUED", {study.name: study})
        run_queue.run_queue(study.lines(), data_root=tmp_path, jobs=1, minutes=None)
        printed[len(roles)] = capsys.readouterr().out
    assert printed[0].count("top-1 43.21%, 7 s") == 2
    assert printed[1].count("-s0: 7 s") == 2
    assert "43" not in printed[1]


def test_runs_that_a_confirming_study_has_as_well_are_as_unseen_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the same to the bit, so they would tell its figures one by one."""
    waits = waiting.unseen_studies(tmp_path)
    # Of the peers, cross-entropy with hard labels, which is a method of its own there.
    others = {"imagenette-corruptions", "imagenette-dsr-alone", "imagenette-peers"}
    assert waits == {"imagenette-confirm", *others}
    # With all lines of the confirmation it stays unseen, and they do not.
    study = QUEUED["imagenette-confirm"]
    confirmed = [x for x in plan_lines() if x.study == study.name]
    done = [{"arch": x.arch, "method": x.method, "seed": x.seed} for x in confirmed]
    monkeypatch.setattr(waiting, "read_lines", lambda _: done)
    monkeypatch.setattr(waiting, "wanted_seeds", lambda *_: 20)
    assert waiting.unseen_studies(tmp_path) == {study.name}
    monkeypatch.setattr(waiting, "wanted_seeds", lambda *_: 21)
    assert waiting.unseen_studies(tmp_path) == waits


def test_a_line_has_the_commits_that_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: type[Pretended]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = SMALL.lines()[:1]

    def commits_at(head: str, *, fails: bool = False) -> list[str]:
        monkeypatch.setattr(run_queue, "commit_of", lambda _tree: head)
        monkeypatch.setattr(pretended, "fails", fails)
        run_queue.run_queue(lines, data_root=tmp_path, jobs=1, minutes=None)
        return [line["commit"] for line in read_lines(Path("results/small.jsonl"))]

    assert commits_at("first", fails=True) == []
    assert commits_at("first", fails=True) == []
    assert commits_at("second") == ["first, second"]
    assert commits_at("third") == ["first, second"]  # it is finished, and its line is kept again
    # Runs that older versions have begun do not say at which commit.
    (commit,) = Path("runs").rglob("commit.txt")
    commit.unlink()
    (commit.parent / "result.json").unlink()
    Path("results/small.jsonl").unlink()
    assert commits_at("third") == ["unknown, third"]


def test_a_run_that_is_trained_again_is_compared_with_its_line_which_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pretended: type[Pretended],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("results/small.jsonl")

    def trained(**others: object) -> str:
        shutil.rmtree("runs", ignore_errors=True)
        monkeypatch.setattr(pretended, "digest", others)
        run_queue.run_queue(SMALL.lines()[:1], data_root=tmp_path, jobs=1, minutes=None)
        return capsys.readouterr().out.splitlines()[-1].partition("-s0: ")[2]

    assert trained() == "top-1 43.21%, 7 s"
    before = file.read_bytes()
    # Another machine and a newer version, but the same figures.
    assert trained(seconds=9.0, device="other", newer=1) == "equal in all figures; its line stays"
    said = trained(top1=0.5, top5=0.9)
    assert said == "differs in top1, top5; its line stays"
    assert file.read_bytes() == before


def test_lines_of_a_clone_are_added_and_replace_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here, clone = Path("results/it.jsonl"), Path("clone/it.jsonl")
    facts = {"study": "it", "content_digest": "a", "commit": "x"}
    own = [study_lines.line("ce", seed, 0.5, **facts) for seed in range(3)]
    merge_lines(here, own[:2])
    merge_lines(clone, [{**own[1], "commit": "y"}, own[2]])
    assert evidence.main(["--keep", str(clone)]) == 0
    assert capsys.readouterr().out == "lines added to results/it.jsonl: 1; there before: 1\n"
    assert [(each["seed"], each["commit"]) for each in read_lines(here)] == [
        (0, "x"),
        (1, "x"),
        (2, "x"),
    ]
    before = here.read_bytes()
    one = study_lines.line("ce", 3, 0.5, study="it")
    for wrong, words in (
        (
            {**own[0], "images": study_lines.line("ce", 0, 0.6)["images"]},
            r"line 2 \(ce, .*seed 0\) .*: images d",
        ),
        ({**own[0], "seed": 7, "content_digest": "b"}, "digits has the content_digest b, but"),
        ({"study": "it"}, "line 2 has no method; expected lines of runs"),
        (
            {key: own[2][key] for key in own[2] if key != "terms"} | {"method": "drg-a0.2"},
            "line 2 has no terms",
        ),
    ):
        clone.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in (one, wrong)))
        with pytest.raises(UserError, match=words):
            evidence.main(["--keep", str(clone)])
        assert here.read_bytes() == before


def test_lines_of_other_images_under_one_name_do_not_come_into_one_file(
    queue_folder: Path, monkeypatch: pytest.MonkeyPatch, pretended: type[Pretended]
) -> None:
    """Their runs could not be compared; it is told before they are trained."""
    lines, file = SMALL.lines(), Path("results/small.jsonl")

    def run(count: int) -> None:
        run_queue.run_queue(lines[:count], data_root=Path("data"), jobs=1, minutes=None)

    digest = load_dataset("data/tiny", image_size=16, progress=False).content_digest()
    monkeypatch.setattr(pretended, "digest", {"content_digest": digest})
    run(1)
    images = np.load(queue_folder / "data/tiny/test_images.npy")
    images[0, 0, 0] ^= 1  # one value of one picture
    np.save(queue_folder / "data/tiny/test_images.npy", images)
    with pytest.raises(
        UserError, match=r"^tiny has the content_digest \w+, but the lines of .*use"
    ):
        run(2)
    assert len(list(Path("runs").rglob("result.json"))) == 1  # nothing was trained
    monkeypatch.setattr(pretended, "digest", {"content_digest": "another"})
    monkeypatch.setattr(run_queue, "_refuse_other_data", lambda *_: None)  # they change meanwhile
    with pytest.raises(UserError, match="tiny has the content_digest another, but"):
        run(2)
    assert len(read_lines(file)) == 1


def test_lines_of_another_size_or_fit_say_nothing_about_the_data(
    queue_folder: Path, monkeypatch: pytest.MonkeyPatch, pretended: type[Pretended]
) -> None:
    file = Path("results/small.jsonl")
    facts = {"study": "small", "data": "tiny", "width": 0.25, "content_digest": "another"}
    larger = study_lines.line("ce", 9, 0.5, **facts, image_size=32)
    stretched = study_lines.line("ce", 9, 0.5, **facts)
    stretched["recipe"] |= {"fit": "stretch"}
    merge_lines(file, [larger, stretched])
    digest = load_dataset("data/tiny", image_size=16, progress=False).content_digest()
    monkeypatch.setattr(pretended, "digest", {"content_digest": digest})
    run_queue.run_queue(SMALL.lines()[:1], data_root=Path("data"), jobs=1, minutes=None)
    assert [each["content_digest"] for each in read_lines(file)] == ["another", "another", digest]
    for line in ({**larger, "seed": 8}, {**stretched, "seed": 8}):
        merge_lines(Path("clone/small.jsonl"), [{**line, "content_digest": "a third"}])
        with pytest.raises(UserError, match=r"content_digest a third, but .* are of another:"):
            evidence.main(["--keep", "clone/small.jsonl"])


def test_a_tree_that_was_carried_without_git_has_the_commit_that_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        author = ["-c", "user.name=x", "-c", "user.email=x@x"]
        command = ["git", "-C", str(tmp_path), *author, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.delenv("SKD_EDGE_COMMIT", raising=False)
    tree = tmp_path / "tree"
    tree.mkdir()
    assert run_queue.commit_of(tree) == "unknown"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of a folder above")
    assert run_queue.commit_of(tree) == "unknown"
    monkeypatch.setenv("SKD_EDGE_COMMIT", "carried")
    assert run_queue.commit_of(tree) == "carried"
    assert run_queue.commit_of(tmp_path) == git("rev-parse", "--short=12", "HEAD")


@pytest.mark.slow
def test_a_queue_is_run_once_and_keeps_lines_with_a_record_of_each_image(
    queue_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_to_plan(SMALL.lines())
    arguments = ["--queue", "small", "--data-root", "data", "--jobs", "2"]
    assert evidence.main(arguments) == 0
    lines = read_lines(Path("results/small.jsonl"))
    assert [line["method"] for line in sorted(lines, key=lambda line: line["method"])] == [
        *("ce", "drg-multi-a0.5")
    ]
    for line in lines:
        assert line["command"].startswith("python training/evidence.py --queue small/mobilenetv2-")
        assert line["commit"] != "unknown"
        columns = read_image_record(line["images"])
        assert columns["right"].mean() == pytest.approx(line["top1"])
        assert columns["nll"].mean() == pytest.approx(line["nll"], rel=1e-3)
        assert line["last_weights"].keys() >= {"top1", "nll", "auroc", "ece", "validation_nll"}
        assert np.isfinite(line["validation_nll"])
        assert str(queue_folder) not in msgspec.json.encode(line).decode()
    capsys.readouterr()
    before = Path("results/small.jsonl").read_bytes()
    assert evidence.main(arguments) == 0
    assert "2 of 2 runs have their line in results/" in capsys.readouterr().out
    assert evidence.main([*arguments, "--repeat"]) == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    assert sorted(Path("results/small.jsonl").read_bytes()) == sorted(before)
    # Another clone has the committed lines and no runs; and of one run the line is missing.
    shutil.rmtree("runs")
    first, second = before.splitlines(keepends=True)
    Path("results/small.jsonl").write_bytes(first)
    assert evidence.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 2 runs have their line in results/")
    assert msgspec.json.decode(second)["method"] in printed
    assert msgspec.json.decode(first)["method"] not in printed.splitlines()[1]
    assert evidence.main([*arguments, "--dry-run", "--repeat"]) == 0
    assert "2 runs: 0 finished, 0 begun, 2 missing" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("queue_folder")
def test_a_run_of_a_study_about_corruptions_is_done_when_it_is_tested_on_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_to_plan(replace(SMALL, methods=("drg-multi-a0.5",), corrupted=True).lines())
    arguments = ["--queue", "small", "--data-root", "data"]
    assert evidence.main(arguments) == 0
    (trained,), (tested,) = (read_lines(Path(f"results/small{end}.jsonl")) for end in ENDS)
    assert tested["method"] == trained["method"] == "drg-multi-a0.5"
    assert tested["command"] == trained["command"]
    assert tested["clean"]["top1"] == trained["top1"]
    assert {len(figures) for figures in tested["corrupted"].values()} == {len(SEVERITIES)}
    # Its second line is lost: the run is not done, and is tested without another training.
    Path("results/small-robustness.jsonl").unlink()
    capsys.readouterr()
    assert evidence.main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 of 1 runs are finished" in said
    assert "robustness measured" in said
    (again,) = read_lines(Path("results/small-robustness.jsonl"))
    assert again == tested
    # With both lines the checkpoint may go.
    (checkpoint,) = Path("runs").rglob("checkpoint.pt")
    checkpoint.unlink()
    assert evidence.main([*arguments, "--repeat"]) == 0
    # Another clone, which has both lines, has nothing to do.
    shutil.rmtree("runs")
    assert evidence.main(arguments) == 0
    assert "1 of 1 runs have their line in results/" in capsys.readouterr().out


@pytest.mark.slow
def test_a_queue_stands_still_while_the_file_is_there(tmp_path: Path, tiny_folder: Path) -> None:
    line = msgspec.structs.replace(SMALL.lines()[0], data=tiny_folder.name)
    line = msgspec.structs.replace(line, settings={**line.settings, "epochs": 6})
    run = run_of(line, data_root=tiny_folder.parent)
    object.__setattr__(run, "parent", tmp_path)
    pause, sizes = tmp_path / "pause", []

    def clock() -> float:
        if not sizes and run.log.exists() and "epoch" in run.log.read_text():
            pause.touch()
            sizes.append(-1)
        elif pause.exists() and len(sizes) < 4:
            sleep(0.5)
            sizes.append(run.log.stat().st_size)
            if len(sizes) == 4:
                pause.unlink()
        return monotonic()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.studies.pool.monotonic", clock)
        assert run_all([run], jobs=1, minutes=5, pause=pause).failed == []
    assert sizes[2] == sizes[3]  # nothing was printed meanwhile
    assert run.line() is not None


def slow_and_fast(folder: Path, data: Path) -> tuple[StudyRun, StudyRun]:
    """Two runs of one seed; the first has eight times the steps of the second."""

    def run(name: str, batch_size: int) -> StudyRun:
        changes = {"epochs": 8, "batch_size": batch_size, "validation_fraction": 0.0}
        return StudyRun(
            method=METHODS[name],
            seed=0,
            study="pair",
            recipe=load_recipe("digits", changes),
            parent=folder,
            shared=Options(
                arch="mobilenetv2", width=0.25, image_size=16, device="cpu", data=str(data)
            ),
        )

    return run("ce", 2), run("ls", 16)


@pytest.mark.slow
def test_a_pair_stays_at_one_epoch_and_so_does_its_stop(tmp_path: Path, tiny_folder: Path) -> None:
    pair = slow_and_fast(tmp_path, tiny_folder)
    leads: list[int] = []

    def clock() -> float:
        done = [epochs_done(run) for run in pair]
        leads.append(max(done) - min(done))
        return monotonic() if min(done) < 3 else float("inf")  # then the time is over

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.studies.pool.monotonic", clock)
        result = run_all(pair, jobs=2, minutes=10, in_step=True)
    assert result.failed == []
    assert len(result.unfinished) == 2
    assert max(leads) == 1  # the fast one waits
    assert max(epochs_done(run) for run in pair) - min(epochs_done(run) for run in pair) <= 1
    assert all((run.folder / "checkpoint.pt").exists() for run in pair)
