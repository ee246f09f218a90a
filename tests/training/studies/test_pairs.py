"""Pairs of runs: one that fails does not keep the others from beginning, and both stay in step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training import evidence
from training.records.journal import JOURNAL
from training.studies.evidence_plan import TINY, pairs_of_runs
from training.studies.pool import PoolResult, run_all
from training.studies.study_run import StudyRun


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the runs that began; the first pair fails and the second one is refused."""
    monkeypatch.chdir(tmp_path)
    names: list[str] = []
    first, second, *_ = pairs_of_runs(TINY)

    def outcome(runs: Sequence[StudyRun], **_: Any) -> PoolResult:
        names.extend(run.folder.name for run in runs)
        if runs[0].folder == second[0].folder:
            raise UserError("that folder is a run of another recipe")
        if runs[0].folder != first[0].folder:
            return PoolResult([], [])
        for run in runs:
            run.log.write_text("Traceback\nerror: out of memory\n")
        return PoolResult(list(runs), [])

    monkeypatch.setattr(evidence, "run_all", outcome)
    return names


def test_all_pairs_begin_though_the_first_fails_and_the_second_is_refused(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="a run of another recipe"):
        evidence.main(["--pairs", "--scale", "tiny"])
    pairs = pairs_of_runs(TINY)
    assert begun == [run.folder.name for pair in pairs for run in pair]
    said = capsys.readouterr()
    assert f"2 of {2 * len(pairs)} runs failed (out of memory)" in said.err
    assert "left out: that folder is a run of another recipe" in said.out


def test_the_exit_code_says_that_a_pair_failed(
    begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, *others = pairs_of_runs(TINY)
    monkeypatch.setattr(evidence, "pairs_of_runs", lambda *_, **__: [one, *others])
    assert evidence.main(["--pairs", "--scale", "tiny"]) == 1
    assert len(begun) == 2 * (1 + len(others))


class StillPlace:
    """A place whose runs do nothing: it notes which of them stand still."""

    usual_jobs = 1

    def __init__(self, then: Sequence[Any]) -> None:
        self.still: dict[str, bool] = {}
        self.seen: list[dict[str, bool]] = []
        self._then = list(then)

    def start(self, run: StudyRun, jobs: int) -> None:
        self.still[run.method.name] = False

    def poll(self, run: StudyRun) -> int | None:
        if run.method.name == "drg":  # the last of the pair: a round is over
            self.seen.append(dict(self.still))
            if self._then:
                self._then.pop(0)()
        return None if self._then else 1

    def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
        self.still[run.method.name] = False

    def stand(self, run: StudyRun, *, still: bool) -> None:
        self.still[run.method.name] = still


def test_a_run_that_is_ahead_stands_still_also_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.studies.pool._POLL_SECONDS", 0)
    pair, pause = pairs_of_runs(TINY)[0], tmp_path / "pause"

    def cross_entropy_finishes_an_epoch() -> None:
        pair[0].folder.mkdir(parents=True)
        (pair[0].folder / JOURNAL).write_text("{}\n")

    steps = [cross_entropy_finishes_an_epoch, lambda: None, pause.touch, lambda: None, pause.unlink]
    place = StillPlace([*steps, lambda: None, lambda: None])
    run_all(pair, jobs=2, pause=pause, in_step=True, place=place)
    states = [(each["ce"], each["drg"]) for each in place.seen]
    assert states[0] == (False, False)
    assert states[1:3] == [(True, False)] * 2
    assert states[3:5] == [(True, True)] * 2
    assert states[5:7] == [(True, False)] * 2
