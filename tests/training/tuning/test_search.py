"""The search: proposals, early ends, bounds, stops and kills, with trainings that are simulated."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from math import log10
from pathlib import Path
from time import sleep
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.trial import Trial, TrialState

from runtime.base.command import EXIT_USER
from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.config.options import Options
from training.config.recipe import load_recipe, recipe_from_values
from training.data import Dataset
from training.data.splits import rows_of_run
from training.studies.local_runs import LocalRuns
from training.studies.study_methods import StudyMethod
from training.studies.study_run import StudyRun
from training.tuning import proposer as proposing
from training.tuning import search as searching
from training.tuning import search_report as reporting
from training.tuning.proposals import own_values, plain
from training.tuning.search import Search
from training.tuning.search_report import best_recipe, draw_search, front_of, search_table
from training.tuning.search_space import Choices, Range, Space
from training.tuning.trial_runs import (
    Bounds,
    SearchSettings,
    judged_by_validation,
    was_asked_to_stop,
    with_fresh_validation,
)

EPOCHS = 6
STOPPED = "error: interrupted in epoch 3, step 8; runs/a goes on with --resume"
NO_BOUNDS = Bounds()
SPACE: Space = {"learning_rate": Range(0.01, 1.0, log=True), "label_smoothing": Choices((0.0, 0.1))}


def accuracy(run: StudyRun, epoch: int) -> float:
    """What a simulated training reaches: most at a learning rate of 0.1, with smoothing."""
    recipe = run.recipe
    reached = 0.9 - 0.3 * abs(log10(recipe.learning_rate) + 1) + 0.2 * recipe.label_smoothing
    return reached * epoch / EPOCHS


class Simulated:
    """A run that trains an epoch at each look at it."""

    fails: Callable[[StudyRun], bool] = staticmethod(lambda run: False)
    test_top1: Callable[[StudyRun], float] = staticmethod(lambda run: 0.5)
    failure = 1  # the exit code of one that fails
    last_words = "Traceback (most recent call last):\nRuntimeError: CUDA error"  # of that one
    started: ClassVar[list[str]] = []
    looks = 0
    stop_after: int | None = None

    def __init__(self, run: StudyRun) -> None:
        self.run = run
        self.code: int | None = None
        run.folder.mkdir(parents=True, exist_ok=True)
        Simulated.started.append(run.method.name)

    def poll(self) -> int | None:
        if self.code is not None:
            return self.code
        Simulated.looks += 1
        if Simulated.looks == Simulated.stop_after:
            signal.raise_signal(signal.SIGTERM)
        journal = self.run.folder / "journal.jsonl"
        done = journal.read_bytes().count(b"\n") if journal.exists() else 0
        if done < EPOCHS:
            line = {"epoch": done + 1, "validation_top1": accuracy(self.run, done + 1)}
            with journal.open("a") as file:
                file.write(json.dumps({**line, "top1": Simulated.test_top1(self.run)}) + "\n")
            return None
        self.code = Simulated.failure if Simulated.fails(self.run) else 0
        if self.code == 0:
            self._finish()
        else:
            self._say(Simulated.last_words)
        return self.code

    def _finish(self) -> None:
        figures = {"top1": Simulated.test_top1(self.run), "top5": 1.0, "ece": 0.1, "seconds": 1.0}
        cost = {"params": 10, "macs": round(1e6 * self.run.shared.width)}
        validation = {
            "validation_top1": accuracy(self.run, EPOCHS),
            "validation_nll": 1.0,
            "validation_images": 100,
        }
        whole = {**figures, **cost, **validation, "recipe": msgspec.to_builtins(self.run.recipe)}
        (self.run.folder / "result.json").write_bytes(msgspec.json.encode(whole))

    def terminate(self) -> None:
        if self.code is None:
            self.code = 1
            self._say(STOPPED)

    def _say(self, words: str) -> None:
        with self.run.log.open("a") as log:
            log.write(f"epoch 1\n{words}\n")


class SimulatedPlace:
    """The place of simulated runs, which knows no others."""

    usual_jobs = 1

    def __init__(self) -> None:
        self._runs: dict[Path, Simulated] = {}
        self.standing: set[str] = set()  # the names of the trials that stand still

    def start(self, run: StudyRun, jobs: int) -> None:
        self._runs[run.folder] = Simulated(run)

    def poll(self, run: StudyRun) -> int | None:
        return self._runs[run.folder].poll()

    def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
        self._runs[run.folder].terminate()

    def stand(self, run: StudyRun, *, still: bool) -> None:
        assert (run.method.name in self.standing) != still
        (self.standing.add if still else self.standing.remove)(run.method.name)


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> type[Simulated]:
    monkeypatch.setattr(searching, "_POLL_SECONDS", 0)
    monkeypatch.setattr(Simulated, "started", [])
    for name in ("fails", "test_top1", "looks", "stop_after"):
        monkeypatch.setattr(Simulated, name, Simulated.__dict__[name])
    return Simulated


def settings_in(folder: Path) -> SearchSettings:
    return SearchSettings(
        recipe=load_recipe("cifar", {"epochs": EPOCHS}),
        final=load_recipe("cifar", {"epochs": EPOCHS}),
        shared=Options(arch="mobilenetv2", image_size=16, device="cpu"),
        seed=0,
        folder=folder,
        drg=True,
        dsr=False,
        has_validation=False,
        classes=10,
        image_size=16,
        data_digest="0" * 64,
        content_digest="1" * 64,
    )


def a_search(
    folder: Path, space: Space = SPACE, bounds: Bounds = NO_BOUNDS, **others: Any
) -> Search:
    latency = others.get("latency", lambda run: pytest.fail("nothing asks for milliseconds"))
    place = others.get("place") or SimulatedPlace()
    return Search(space, settings_in(folder), bounds, latency=latency, place=place)


def values_of(search: Search) -> list[dict[str, Any]]:
    return [plain(each.params) for each in search.trials()]


def test_it_finds_what_is_best_and_never_less_than_the_recipe(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    outcome = search.run(trials=25, jobs=1)
    assert (outcome.failed, outcome.waiting, outcome.stopped) == ([], 0, False)
    own = load_recipe("cifar")
    assert values_of(search)[0]["learning_rate"] == own.learning_rate
    assert values_of(search)[0]["label_smoothing"] == own.label_smoothing
    best = search.best()
    assert best is not None
    assert best.params["label_smoothing"] == 0.1
    assert 0.05 < best.params["learning_rate"] < 0.2
    finished = [each.value for each in search.trials() if each.state == TrialState.COMPLETE]
    assert best.value == max(finished)  # type: ignore[type-var]


def test_no_tap_is_the_own_one_of_a_recipe_with_several_heads(tmp_path: Path) -> None:
    space: Space = {"tap": Choices((1, 2, 3))}
    settings = settings_in(tmp_path)
    assert settings.recipe.taps == (2, 3)
    assert own_values(space, settings) == {}
    one = msgspec.structs.replace(settings.recipe, taps=())
    assert own_values(space, replace(settings, recipe=one)) == {"tap": 2}


def test_trials_that_stay_behind_end_early(tmp_path: Path, simulated: type[Simulated]) -> None:
    search = a_search(tmp_path)
    search.run(trials=25, jobs=1)
    ended = [each for each in search.trials() if each.state == TrialState.PRUNED]
    assert ended
    for each in ended:
        assert EPOCHS // 3 <= len(each.intermediate_values) < EPOCHS
        # Behind the median of those that were as far before it.
        rate = plain(each.params)["learning_rate"]
        assert not 0.08 < rate < 0.12
    assert simulated.looks < 25 * EPOCHS


def test_the_test_split_takes_no_part(tmp_path: Path, simulated: type[Simulated]) -> None:
    first = a_search(tmp_path / "a")
    simulated.test_top1 = staticmethod(lambda run: run.recipe.learning_rate)
    first.run(trials=8, jobs=1)
    second = a_search(tmp_path / "b")
    simulated.test_top1 = staticmethod(lambda run: 1 - run.recipe.learning_rate)
    second.run(trials=8, jobs=1)
    assert values_of(first) == values_of(second)
    assert first.best().number == second.best().number  # type: ignore[union-attr]


@pytest.mark.parametrize("stop_after", [3, 20, 33])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    stop_after: int, tmp_path: Path, simulated: type[Simulated]
) -> None:
    whole = a_search(tmp_path / "whole")
    whole.run(trials=8, jobs=1)
    simulated.looks, simulated.stop_after = 0, stop_after
    stopped = a_search(tmp_path / "stopped")
    outcome = stopped.run(trials=8, jobs=1)
    assert outcome.stopped
    assert outcome.waiting == 1
    simulated.stop_after = None
    again = a_search(tmp_path / "stopped")
    assert again.run(trials=8, jobs=1).waiting == 0
    assert values_of(again) == values_of(whole)
    values = [(each.state, each.value) for each in again.trials()]
    assert values == [(each.state, each.value) for each in whole.trials()]


def test_a_killed_search_goes_on_with_the_trials_that_had_begun(
    tmp_path: Path, simulated: type[Simulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(_seconds: float) -> None:
        if simulated.looks == 4:
            raise KilledError

    monkeypatch.setattr(searching, "sleep", killed)
    with pytest.raises(KilledError):
        a_search(tmp_path).run(trials=3, jobs=2)
    monkeypatch.setattr(searching, "sleep", lambda _seconds: None)
    assert simulated.started == ["trial-0000", "trial-0001"]
    search = a_search(tmp_path)
    assert search.run(trials=3, jobs=2).waiting == 0
    assert simulated.started[2:] == ["trial-0000", "trial-0001", "trial-0002"]
    assert [each.state for each in search.trials()] == 3 * [TrialState.COMPLETE]
    assert all(list(each.intermediate_values) == [*range(1, 7)] for each in search.trials())


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_search_that_was_killed_while_it_proposed_goes_on_as_if_it_had_not_been(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proposal that was left after `written` of its values is completed and checked."""

    class KilledError(BaseException):
        pass

    def cost(run: StudyRun, _settings: SearchSettings) -> tuple[int, int]:
        if written == len(space) and len(search.study.get_trials()) == kill_at:
            raise KilledError
        return 10, round(1e6 * run.shared.width)

    def suggest(trial: Trial, name: str, distribution: Any) -> Any:
        if trial.number + 1 == kill_at and list(space).index(name) == written:
            raise KilledError
        return original(trial, name, distribution)

    space: Space = {**SPACE, "width": Choices((0.25, 0.5, 1.0))}
    original, kill_at = Trial._suggest, 0
    monkeypatch.setattr(Trial, "_suggest", suggest)
    monkeypatch.setattr(proposing, "cost_of_trial", cost)
    search = whole = a_search(tmp_path / "whole", space, Bounds(macs=5e5))
    whole.run(trials=4, jobs=1)
    assert len(whole.study.get_trials()) > 4  # some were refused
    for number in range(1, len(whole.study.get_trials()) + 1):
        kill_at = number
        search = a_search(tmp_path / "killed", space, Bounds(macs=5e5))
        with pytest.raises(KilledError):
            search.run(trials=4, jobs=1)
        if written == 1:  # what is drawn later differs, so one kill is enough
            break
    kill_at = 0
    search = a_search(tmp_path / "killed", space, Bounds(macs=5e5))
    search.run(trials=4, jobs=1)
    assert all(values.keys() == space.keys() for values in values_of(search))
    assert all(each.user_attrs["macs"] <= 5e5 for each in search.trials())
    draw_search(tmp_path / "search.png", search)
    if written != 1:
        found, expected = (
            [(each.params, each.state, each.value) for each in one.study.get_trials()]
            for one in (search, whole)
        )
        assert found == expected


def test_a_search_goes_on_after_a_full_disk_cut_off_what_it_wrote(tmp_path: Path) -> None:
    a_search(tmp_path).run(trials=2, jobs=1)
    journal = tmp_path / "trials.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    a_search(tmp_path).run(trials=3, jobs=1)
    search = a_search(tmp_path)
    assert [each.state for each in search.trials()] == 3 * [TrialState.COMPLETE]
    assert journal.read_bytes().startswith(whole)


def test_trials_that_were_trained_elsewhere_are_judged(
    tmp_path: Path, simulated: type[Simulated]
) -> None:
    """Their commands were printed, and another scheduler has run them."""
    runs = a_search(tmp_path).missing_runs(trials=3)
    assert [run.method.name for run in runs] == ["trial-0000", "trial-0001", "trial-0002"]
    assert a_search(tmp_path).missing_runs(trials=3) == runs
    for run in runs[:2]:
        elsewhere = Simulated(run)
        while elsewhere.poll() is None:
            pass
    assert a_search(tmp_path).missing_runs(trials=3) == runs[2:]
    simulated.started.clear()
    search = a_search(tmp_path)
    search.run(trials=3, jobs=1)
    assert simulated.started == ["trial-0002"]
    assert [each.state for each in search.trials()] == 3 * [TrialState.COMPLETE]
    assert all(list(each.intermediate_values) == [*range(1, 7)] for each in search.trials())


def test_no_more_than_the_jobs_go_on_at_a_time_and_minutes_end_it(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    outcome = search.run(trials=5, jobs=2, minutes=1e-9)
    assert (outcome.waiting, outcome.stopped, search.trials()) == (0, False, [])
    assert search.best() is None


def test_a_trial_that_fails_is_told_and_others_go_on(
    tmp_path: Path, simulated: type[Simulated]
) -> None:
    simulated.fails = staticmethod(lambda run: run.method.name == "trial-0002")
    search = a_search(tmp_path)
    outcome = search.run(trials=4, jobs=1)
    assert [run.method.name for run in outcome.failed] == ["trial-0002"]
    assert [each.state.name for each in search.trials()].count("FAIL") == 1
    # The first proposal may diverge, also one that ends before the recipe as it is.
    simulated.fails = staticmethod(lambda run: run.method.name in ("trial-0000", "trial-0001"))
    outcome = a_search(tmp_path / "first").run(trials=4, jobs=2)
    assert [run.method.name for run in outcome.failed] == ["trial-0000", "trial-0001"]
    simulated.fails = staticmethod(lambda run: True)
    assert len(a_search(tmp_path / "few").run(trials=2, jobs=1).failed) == 2
    with pytest.raises(UserError, match=r"the first 3 trials that ended failed: see .*\.log"):
        a_search(tmp_path / "all").run(trials=5, jobs=1)


@pytest.mark.parametrize("cause", ["kill", "stop", "lock"])
def test_a_trial_that_is_ended_from_outside_goes_on_with_the_next_call(
    cause: str, tmp_path: Path, simulated: type[Simulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.fails = staticmethod(lambda run: run.method.name == "trial-0001")
    if cause == "kill":
        monkeypatch.setattr(simulated, "failure", -signal.SIGKILL)
    elif cause == "stop":
        monkeypatch.setattr(simulated, "last_words", STOPPED)
    else:
        monkeypatch.setattr(searching, "is_locked", lambda folder: "0001" in folder.name)
    outcome = a_search(tmp_path).run(trials=3, jobs=1)
    assert [run.method.name for run in outcome.failed] == ["trial-0001"]
    assert (outcome.waiting, outcome.stopped) == (1, False)
    simulated.fails = staticmethod(lambda run: False)
    monkeypatch.setattr(searching, "is_locked", lambda _folder: False)
    search = a_search(tmp_path)
    assert search.run(trials=3, jobs=1).failed == []
    assert [each.state for each in search.trials()] == 3 * [TrialState.COMPLETE]


@pytest.mark.parametrize(
    ("code", "last_words"),
    [
        (2, "error: the loss is not finite at step 40 (epoch 2); lower learning_rate"),
        (1, "Traceback (most recent call last):\nRuntimeError: CUDA error"),
        (1, "error: nothing was heard from process 1"),
    ],
    ids=["diverged", "crashed", "said otherwise"],
)
def test_a_trial_that_goes_on_and_fails_by_itself_has_failed(
    code: int,
    last_words: str,
    tmp_path: Path,
    simulated: type[Simulated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its log tells of the stop before, too."""
    simulated.fails = staticmethod(lambda run: run.method.name == "trial-0001")
    monkeypatch.setattr(simulated, "last_words", STOPPED)
    assert a_search(tmp_path).run(trials=3, jobs=1).waiting == 1
    monkeypatch.setattr(simulated, "last_words", last_words)
    monkeypatch.setattr(simulated, "failure", code)
    search = a_search(tmp_path)
    assert search.run(trials=3, jobs=1).waiting == 0
    states = [each.state for each in search.trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_is_told_from_one_that_diverges(
    tmp_path: Path, tiny_folder: Path
) -> None:
    place = LocalRuns()
    shared = replace(settings_in(tmp_path).shared, data=str(tiny_folder), width=0.25)

    def ended(name: str, **changes: Any) -> tuple[StudyRun, int]:
        recipe = load_recipe("digits", {"batch_size": 8, "compile": False, **changes})
        method = StudyMethod(name, drg=False, dsr=False)
        run = StudyRun(method, 0, "s", recipe, parent=tmp_path, shared=shared)
        place.start(run, 1)
        while place.poll(run) is None and not (run.folder / "journal.jsonl").exists():
            sleep(0.05)
        place.stop(run)
        while (code := place.poll(run)) is None:
            sleep(0.05)
        return run, code

    stopped, code = ended("stopped", epochs=10_000)
    assert was_asked_to_stop(stopped, code), stopped.log.read_text()
    assert (stopped.folder / "checkpoint.pt").exists()
    diverged, code = ended("diverged", learning_rate=1e30, warmup_epochs=0)
    assert code == EXIT_USER, diverged.log.read_text()
    assert not was_asked_to_stop(diverged, code)


def test_runs_that_are_all_ended_from_outside_end_the_search(
    tmp_path: Path, simulated: type[Simulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.fails = staticmethod(lambda run: True)
    monkeypatch.setattr(simulated, "failure", -signal.SIGKILL)
    with pytest.raises(UserError, match="the first 3 trials that ended failed"):
        a_search(tmp_path).run(trials=5, jobs=1)


@pytest.mark.parametrize("seconds", [120, 0])
def test_a_trial_in_whose_folder_another_process_trains_is_waited_for(
    seconds: int,
    tmp_path: Path,
    simulated: type[Simulated],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is another scheduler's, or one that a killed search has left."""
    (run,) = a_search(tmp_path).missing_runs(trials=1)
    looks = iter([True, True, False])
    monkeypatch.setattr(searching, "is_locked", lambda _folder: next(looks, False))
    monkeypatch.setattr(searching, "GRACE_SECONDS", seconds)
    outcome = a_search(tmp_path).run(trials=1, jobs=1)
    assert outcome.failed == []
    if seconds:
        assert (simulated.started, outcome.waiting) == (["trial-0000"], 0)
    else:
        assert (simulated.started, outcome.waiting) == ([], 1)
        said = f"trial 0: another process trains in {run.folder}, left for the next call"
        assert said in capsys.readouterr().out


def test_every_seed_of_the_command_line_seeds_the_proposals(tmp_path: Path) -> None:
    settings = replace(settings_in(tmp_path), seed=2**32 - 1)
    search = Search(SPACE, settings, NO_BOUNDS, latency=lambda run: 0.0, place=SimulatedPlace())
    assert search.run(trials=2, jobs=1).failed == []


def test_students_with_more_macs_than_the_bound_are_not_trained(
    tmp_path: Path, simulated: type[Simulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.networks.students import build_student, cost_of

    most = cost_of(
        build_student("mobilenetv2", num_classes=10, image_size=16, width=0.5), image_size=16
    ).macs
    space = {**SPACE, "width": Choices((0.25, 0.5, 0.75, 1.0))}
    search = a_search(tmp_path, space, Bounds(macs=most))
    search.run(trials=10, jobs=1)
    widths = {plain(each.params)["width"] for each in search.trials()}
    assert widths == {0.25, 0.5}
    assert len(simulated.started) == 10
    monkeypatch.setattr(proposing, "_MOST_REFUSED", 20)
    with pytest.raises(UserError, match=r"20 proposals .* were refused, .*MACs, and"):
        a_search(tmp_path / "none", space, Bounds(macs=most / 100)).run(trials=2, jobs=1)


def test_milliseconds_are_measured_once_for_each_shape(tmp_path: Path) -> None:
    asked: list[float] = []

    def latency(run: StudyRun) -> float:
        asked.append(run.shared.width)
        return 10 * run.shared.width

    space = {**SPACE, "width": Choices((0.25, 0.5, 1.0))}
    search = a_search(tmp_path, space, Bounds(milliseconds=6), latency=latency)
    search.run(trials=15, jobs=1)
    assert len(asked) == len(set(asked)) > 1
    # One with width 1.0 was trained, because nobody knew. The answer is within the bound.
    assert [plain(each.params)["width"] for each in search.trials()].count(1.0) == 1
    best = search.best()
    assert best is not None
    assert plain(best.params)["width"] < 1
    assert "(beyond the bound)" in search_table(search)


def test_other_trainings_stand_still_while_milliseconds_are_measured(
    tmp_path: Path, simulated: type[Simulated]
) -> None:
    place = SimulatedPlace()
    seen: list[set[str]] = []

    def latency(run: StudyRun) -> float:
        seen.append(set(place.standing))
        return 1.0

    space: Space = {**SPACE, "width": Choices((0.25, 0.5, 1.0))}
    bounds = Bounds(milliseconds=6)
    search = a_search(tmp_path, space, bounds, latency=latency, place=place)
    search.run(trials=9, jobs=3)
    assert seen
    assert [len(standing) for standing in seen] == [2, 1, 0][: len(seen)]
    assert not place.standing


def test_a_stop_does_not_wait_for_milliseconds(tmp_path: Path, simulated: type[Simulated]) -> None:
    """A run that finishes meanwhile is measured by the next call."""
    asked: list[str] = []

    def latency(run: StudyRun) -> float:
        asked.append(run.method.name)
        return 1.0

    class Finishing(SimulatedPlace):
        def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
            while self.poll(run) is None:
                pass

    simulated.stop_after = 3
    search = a_search(tmp_path, bounds=Bounds(milliseconds=6), latency=latency, place=Finishing())
    assert search.run(trials=2, jobs=1).waiting == 1
    assert not asked
    again = a_search(tmp_path, bounds=Bounds(milliseconds=6), latency=latency)
    assert again.run(trials=2, jobs=1).waiting == 0
    assert asked == ["trial-0000"]


def test_values_that_a_recipe_cannot_have_together_are_not_trained(tmp_path: Path) -> None:
    space: Space = {
        "class_weights": Choices(("none", "balanced")),
        "balanced_sampling": Choices((False, True)),
    }
    search = a_search(tmp_path, space)
    search.run(trials=6, jobs=1)
    assert {"class_weights": "balanced", "balanced_sampling": True} not in values_of(search)
    assert len(search.trials()) == 6


def test_a_crop_that_cannot_work_on_the_stored_images_is_not_trained(tmp_path: Path) -> None:
    """Photographs above 64 px are stored with a margin, which `pad` cannot cut off."""
    space: Space = {"crop": Choices(("auto", "pad")), "image_size": Choices((64, 72))}
    settings = settings_in(tmp_path)
    shared = replace(settings.shared, data=str(tmp_path / "photographs"), image_size=None)
    settings = replace(settings, shared=shared, image_size=224)
    search = Search(space, settings, NO_BOUNDS, latency=lambda run: 0.0, place=SimulatedPlace())
    search.run(trials=12, jobs=1)
    pairs = {(values["crop"], values["image_size"]) for values in values_of(search)}
    assert pairs == {("auto", 64), ("auto", 72), ("pad", 64)}


def test_lists_are_choices_like_others(tmp_path: Path) -> None:
    search = a_search(tmp_path, {"taps": Choices(([2], [2, 3]))})
    search.run(trials=4, jobs=1)
    assert all(values["taps"] in ([2], [2, 3]) for values in values_of(search))


def test_the_table_has_the_best_first_and_the_recipe_is_one(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    search.run(trials=6, jobs=1)
    best = search.best()
    assert best is not None
    first = search_table(search).splitlines()[2].split("|")
    assert int(first[1]) == best.number
    assert float(first[2]) == pytest.approx(100 * float(best.value or 0), abs=0.005)
    own = load_recipe("cifar", {"epochs": EPOCHS})
    best_recipe(plain(best.params), own, lines=["A line."], path=tmp_path / "best.yaml")
    found = load_recipe(str(tmp_path / "best.yaml"))
    assert found.learning_rate == pytest.approx(best.params["learning_rate"])
    assert found.label_smoothing == best.params["label_smoothing"]
    assert (found.validation_fraction, found.patience) == (own.validation_fraction, own.patience)
    assert (tmp_path / "best.yaml").read_text().startswith("# A line.\n")
    draw_search(tmp_path / "search.png", search)
    assert (tmp_path / "search.png").stat().st_size > 5000


def test_trials_that_ended_early_have_no_accuracy_in_the_table_and_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = a_search(tmp_path)
    search.run(trials=10, jobs=1)
    finished = {
        each.number: float(each.value or 0)
        for each in search.trials()
        if each.state == TrialState.COMPLETE
    }
    assert len(finished) < 10
    rows = [row.split("|") for row in search_table(search).splitlines()[2:]]
    said = {int(row[1]): row[2].strip() for row in rows}
    assert said == {
        number: f"{100 * finished[number]:.2f}" if number in finished else "ended early"
        for number in range(10)
    }
    drawn: list[list[tuple[float, float]]] = []

    def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        drawn.append(points)
        return []

    monkeypatch.setattr(reporting, "front_of", front)
    draw_search(tmp_path / "search.png", search)
    assert sorted(accuracy for _, accuracy in drawn[0]) == sorted(finished.values())


def test_a_trial_holds_out_images_enough_to_choose_by() -> None:
    plain_recipe = recipe_from_values(
        {"epochs": 9, "batch_size": 8, "learning_rate": 0.1, "optimizer": "sgd"}, source=""
    )
    trial = judged_by_validation(plain_recipe, has_validation=False)
    assert (trial.validation_fraction, trial.patience, trial.select) == (0.2, 9, "last")
    assert not trial.thresholds  # all of them judge
    own = judged_by_validation(plain_recipe, has_validation=True)
    assert (own.validation_fraction, own.thresholds) == (0, True)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("images", [25, 300, 333])
def test_the_final_training_holds_out_images_that_no_trial_judged_by(
    share: float, images: int
) -> None:
    labels = np.repeat(np.arange(4), images)
    data = data_of(labels)
    recipe = load_recipe("folder", {"validation_fraction": share})
    trial = judged_by_validation(recipe, has_validation=False)
    final = with_fresh_validation(recipe, data)
    judging, kept = rows_of_run(data, trial)[1], rows_of_run(data, final)[1]
    assert len(judging) >= images // 5 * 4
    assert len(kept) == 4 * round(share * images)
    assert not set(judging) & set(kept)
    assert final.thresholds
    own = replace(data, validation_images=40)  # half of them judge, in the trials as well
    assert with_fresh_validation(recipe, own) == recipe


def test_without_fresh_images_the_final_training_finds_no_thresholds() -> None:
    """Groups with images of both classes are held out alike by every share."""
    data = data_of(np.repeat([0, 1], 100))
    recipe = load_recipe("folder", {"validation_fraction": 0.1})
    for groups, thresholds in ((np.arange(200) // 10, True), (np.arange(200) % 50, False)):
        final = with_fresh_validation(recipe, replace(data, train_groups=groups))
        assert final.thresholds is thresholds


def data_of(labels: NDArray[np.int64]) -> Dataset:
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    spec = InputSpec(size=2, resize=2, crop=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Dataset("small", ("a", "b", "c", "d"), spec, pixels, labels, pixels[:4], labels[:4])


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(2.0, 0.7), (1.0, 0.5), (3.0, 0.7), (2.0, 0.6), (4.0, 0.9)]
    assert front_of(points) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]
