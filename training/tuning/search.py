"""The search of settings: Optuna proposes, our runs are its trials, and its journal is a file.

A trial is a `training/run.py --resume`, so a search that was stopped or killed goes on with the
trials that had begun. Optuna's median rule (Golovin and others, "Google Vizier", 2017) ends trials
that stay behind, by the validation accuracy in their journals.
"""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeAlias

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT
from training.engine.interruption import stop_request
from training.records.run_folder import is_locked
from training.studies.local_runs import LocalRuns
from training.studies.place import Place
from training.studies.pool import GRACE_SECONDS
from training.studies.study_run import StudyRun
from training.tuning.proposals import own_values, plain
from training.tuning.proposer import MACS, MILLISECONDS, REFUSED, Proposer, shape_of
from training.tuning.search_space import Space
from training.tuning.trial_journal import open_trials
from training.tuning.trial_runs import (
    Bounds,
    Outcome,
    SearchSettings,
    judged,
    run_of_trial,
    validation_of,
    was_asked_to_stop,
)

_NAME = "tune"
_POLL_SECONDS = 0.2
# The median rule begins after this many finished trials, and after a third of a run's epochs.
_TRIALS_BEFORE_PRUNING = 4
# One proposal may diverge and leave others that train. So many, and none that was finished before
# them, have a cause that all trials share, such as the data.
_FAILURES = 3
# Milliseconds of a finished run's engine or file, measured by commands.
Latency: TypeAlias = Callable[[StudyRun], float]


class Search:
    """A search in a folder. Only one process at a time may use it."""

    def __init__(
        self,
        space: Space,
        settings: SearchSettings,
        bounds: Bounds,
        *,
        latency: Latency,
        place: Place | None = None,
    ) -> None:
        settings.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._settings, self._bounds, self._latency = settings, bounds, latency
        third = max(1, settings.recipe.epochs // 3)
        self.study = optuna.create_study(
            storage=open_trials(settings.folder),
            pruner=optuna.pruners.MedianPruner(_TRIALS_BEFORE_PRUNING, third),
            study_name=_NAME,
            direction="maximize",
            load_if_exists=True,
        )
        # The first trial is the recipe as it is, so that no search ends with less than that.
        if not self.study.get_trials(deepcopy=False) and (own := own_values(space, settings)):
            self.study.enqueue_trial(own)
        self._proposer = Proposer(self.study, space, settings, bounds)
        self._running: list[tuple[Trial, StudyRun]] = []
        self._broken_off = 0  # runs of this call that were ended from outside
        self._place = place or LocalRuns()
        self._told: dict[int, set[int]] = {  # epochs, by the trial's number
            each.number: set(each.intermediate_values) for each in self.trials()
        }

    def run(self, *, trials: int, jobs: int, minutes: float | None = None) -> Outcome:
        """Trains until `trials` are finished, `jobs` at a time, or `minutes` are over.

        After Ctrl-C, SIGTERM and SIGHUP, and when the time is over, runs write checkpoints and end.

        Raises:
            UserError: if no proposal is within the bounds.
        """
        outcome = Outcome()
        deadline = float("inf") if minutes is None else monotonic() + 60 * minutes
        waiting = self._begun()
        # A run that a killed search has left writes its last checkpoint meanwhile.
        locked_until = monotonic() + GRACE_SECONDS
        with stop_request() as stop:
            try:
                while not (stop.requested or monotonic() >= deadline):
                    if monotonic() >= locked_until:
                        waiting = _without_locked(waiting)
                    self._start_more(waiting, outcome, trials=trials, jobs=jobs)
                    if not (self._running or waiting):
                        break
                    self._look(outcome)
                    sleep(_POLL_SECONDS)
                outcome.stopped = bool(stop.requested)
                self._stop_all(outcome)
            finally:
                for _, run in self._running:
                    self._place.stop(run, at_once=True)
        outcome.waiting = sum(each.state == TrialState.RUNNING for each in self.trials())
        return outcome

    def missing_runs(self, *, trials: int) -> list[StudyRun]:
        """The runs that are missing of `trials`, all proposed now, so none learns from another.

        Raises:
            UserError: if no proposal is within the bounds.
        """
        runs = [run for _, run in self._begun() if judged(run) is None]
        while len(self.trials()) < trials:
            runs.append(self._proposer.proposed()[1])
        return runs

    def trials(self) -> list[FrozenTrial]:
        """All trials so far, without proposals beyond a bound."""
        found = self.study.get_trials(deepcopy=False)
        begun = [each for each in found if each.state != TrialState.WAITING]
        return [each for each in begun if REFUSED not in each.user_attrs]

    def run_of(self, trial: FrozenTrial) -> StudyRun:
        """The run of a trial."""
        return run_of_trial(trial.number, plain(trial.params), self._settings)

    def within_bounds(self, trial: FrozenTrial) -> bool:
        """Whether what was measured of the trial is within the bounds."""
        return all(
            bound is None or trial.user_attrs.get(name, 0.0) <= bound
            for name, bound in (
                (MACS, self._bounds.macs),
                (MILLISECONDS, self._bounds.milliseconds),
            )
        )

    def best(self) -> FrozenTrial | None:
        """The finished trial within the bounds with the highest validation accuracy.

        Of equal ones it is the one with the lower negative log-likelihood, then the first.
        """
        finished = [each for each in self.trials() if each.state == TrialState.COMPLETE]
        within = [each for each in finished if self.within_bounds(each)]
        return min(
            within,
            key=lambda each: (-float(each.value or 0), each.user_attrs["nll"], each.number),
            default=None,
        )

    def _begun(self) -> list[tuple[Trial, StudyRun]]:
        """The trials that wait to go on."""
        found = [each for each in self.trials() if each.state == TrialState.RUNNING]
        return [taken for each in found if (taken := self._proposer.begun(each))]

    def _start_more(
        self, waiting: list[tuple[Trial, StudyRun]], outcome: Outcome, *, trials: int, jobs: int
    ) -> None:
        while len(self._running) < jobs:
            if waiting:
                free = (each for each in waiting if not is_locked(each[1].folder))
                if (taken := next(free, None)) is None:
                    return  # they are looked at again
                waiting.remove(taken)
                trial, run = taken
                if judged(run) is not None:  # it was finished while no search looked at it
                    self._tell_epochs(trial, run)
                    self._close(trial, run, 0, outcome)
                    continue
            elif len(self.trials()) < trials:
                trial, run = self._proposer.proposed()
            else:
                return
            self._place.start(run, jobs)
            self._running.append((trial, run))

    def _look(self, outcome: Outcome) -> None:
        """Tells Optuna what the journals and the runs that have ended say."""
        for entry in list(self._running):
            trial, run = entry
            code = self._place.poll(run)
            self._tell_epochs(trial, run)
            if code is not None:
                self._running.remove(entry)
                self._close(trial, run, code, outcome)
            elif trial.should_prune():
                self._end(run)
                self._running.remove(entry)
                (run.folder / CHECKPOINT).unlink(missing_ok=True)  # it never goes on
                self.study.tell(trial, state=TrialState.PRUNED)
                epochs = len(validation_of(run))
                print(f"{_words(trial)}: ended after epoch {epochs}, it stays behind", flush=True)  # noqa: T201

    def _tell_epochs(self, trial: Trial, run: StudyRun) -> None:
        told = self._told.setdefault(trial.number, set())
        for epoch, accuracy in enumerate(validation_of(run), start=1):
            if epoch not in told:
                trial.report(accuracy, epoch)
                told.add(epoch)

    def _close(self, trial: Trial, run: StudyRun, code: int, outcome: Outcome) -> None:
        found = judged(run) if code == 0 else None
        if found is None:
            outcome.failed.append(run)
            # A signal from outside, or a folder in which another process trains, says nothing of
            # the trial's settings: it waits for the next call.
            if code < 0 or was_asked_to_stop(run, code) or is_locked(run.folder):
                self._broken_off += 1
                said = "broken off, goes on with the next call"
            else:
                self.study.tell(trial, state=TrialState.FAIL)
                said = "failed"
            print(f"{_words(trial)}: {said}, see {run.log}", flush=True)  # noqa: T201
            states = [each.state for each in self.trials()]
            failed = states.count(TrialState.FAIL) + self._broken_off
            if failed >= _FAILURES and TrialState.COMPLETE not in states:
                raise UserError(f"the first {failed} trials that ended failed: see {run.log}")
            return
        trial.set_user_attr("nll", found.validation_nll)
        trial.set_user_attr("seconds", found.seconds)
        if (most := self._bounds.milliseconds) is not None:
            taken = self._latency_of(run)
            trial.set_user_attr(MILLISECONDS, taken)
            trial.set_constraint(MILLISECONDS, taken - most)
        self.study.tell(trial, found.validation_top1)
        best = self.best()
        words = f"best {float(best.value or 0):.2%}, trial {best.number}" if best else "no best yet"
        said = f"{_words(trial)}: validation top-1 {found.validation_top1:.2%} ({words})"
        print(said, flush=True)  # noqa: T201

    def _has_to_be_timed(self, run: StudyRun) -> bool:
        bounded = self._bounds.milliseconds is not None
        return bounded and shape_of(run) not in self._proposer.known_latency

    def _latency_of(self, run: StudyRun) -> float:
        """Measured once for each shape. The other trainings, which would slow it, stand still."""
        known = self._proposer.known_latency
        if self._has_to_be_timed(run):
            others = [other for _, other in self._running]
            try:
                for other in others:
                    self._place.stand(other, still=True)
                known[shape_of(run)] = self._latency(run)
            finally:
                for other in others:
                    self._place.stand(other, still=False)
        return known[shape_of(run)]

    def _end(self, run: StudyRun) -> None:
        """Stops one run and waits until it has ended."""
        self._place.stop(run)
        end = monotonic() + GRACE_SECONDS
        while self._place.poll(run) is None:
            if monotonic() >= end:
                self._place.stop(run, at_once=True)
                return
            sleep(_POLL_SECONDS)

    def _stop_all(self, outcome: Outcome) -> None:
        for _, run in self._running:
            self._place.stop(run)
        end = monotonic() + GRACE_SECONDS
        while self._running and monotonic() < end:
            for entry in list(self._running):
                trial, run = entry
                if (code := self._place.poll(run)) is None:
                    continue
                self._running.remove(entry)
                # What has to be timed first waits for the next call, in which nothing else works.
                if judged(run) is not None and not self._has_to_be_timed(run):
                    self._close(trial, run, code, outcome)
            sleep(_POLL_SECONDS)


def _without_locked(waiting: list[tuple[Trial, StudyRun]]) -> list[tuple[Trial, StudyRun]]:
    """Those in whose folders no other process trains; says which are left to it."""
    free = []
    for trial, run in waiting:
        if is_locked(run.folder):
            said = f"another process trains in {run.folder}, left for the next call"
            print(f"{_words(trial)}: {said}", flush=True)  # noqa: T201
        else:
            free.append((trial, run))
    return free


def _words(trial: Trial) -> str:
    return f"trial {trial.number}"
