"""Which trial is trained next: Optuna proposes, and what is beyond a bound is refused."""

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from runtime.base.errors import UserError
from training.studies.study_run import StudyRun
from training.tuning.proposals import distribution_of, plain
from training.tuning.search_space import Space
from training.tuning.trial_runs import Bounds, SearchSettings, cost_of_trial, run_of_trial

MACS, MILLISECONDS, PARAMETERS = "macs", "ms", "params"  # what is noted of a trial
REFUSED = "refused"  # why a proposal was not trained
_SEEDS = 2**32  # NumPy takes none above, and --seed may be as large
_MOST_REFUSED = 200  # proposals in a row beyond a bound: then there is nothing within it

Shape = tuple[str, float, int | None]


class Proposer:
    """Proposes the trials of a study.

    Attributes:
        known_latency: milliseconds of the shapes that were measured.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: SearchSettings, bounds: Bounds
    ) -> None:
        self._study, self._settings, self._bounds = study, settings, bounds
        self._space = {key: distribution_of(key, each) for key, each in space.items()}
        self.known_latency: dict[Shape, float] = {}

    def proposed(self) -> tuple[Trial, StudyRun]:
        """The next trial that is to be trained; others are told to Optuna without a training.

        Raises:
            UserError: if no proposal is within the bounds.
        """
        reason = ""
        for _ in range(_MOST_REFUSED):
            self._seed_sampler(len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask(self._space)
            run, reason = self._checked(trial)
            if run is not None:
                return trial, run
        raise UserError(
            f"{_MOST_REFUSED} proposals in a row were refused, the last because {reason}; "
            "widen the space, or raise the bound"
        )

    def begun(self, frozen: FrozenTrial) -> tuple[Trial, StudyRun] | None:
        """A trial that an earlier call has begun; None if it is refused now."""
        if MACS in frozen.user_attrs:
            run = run_of_trial(frozen.number, plain(frozen.params), self._settings)
            return Trial(self._study, frozen._trial_id), run
        # The call was killed while it proposed this trial. Nobody has looked whether it is within
        # the bounds, and values may be missing: these are drawn now.
        self._seed_sampler(frozen.number)
        trial = Trial(self._study, frozen._trial_id)
        for key, distribution in self._space.items():
            trial._suggest(key, distribution)
        checked, _ = self._checked(trial)
        return None if checked is None else (trial, checked)

    def _seed_sampler(self, number: int) -> None:
        """Makes the sampler of the trial `number`.

        It depends on how many trials there are and how those that have ended did, and not on what
        this process has drawn before. So a search of one job that was stopped proposes what it
        would have; of several jobs, their speed decides which have ended.
        """
        self._study.sampler = optuna.samplers.TPESampler(
            seed=(self._settings.seed * 100_003 + number) % _SEEDS, multivariate=True
        )

    def _checked(self, trial: Trial) -> tuple[StudyRun | None, str]:
        """The trial's run, or why it is refused, which Optuna is told then."""
        try:
            run = run_of_trial(trial.number, plain(trial.params), self._settings)
        except UserError as error:  # two values that a recipe cannot have together
            reason = str(error)
        else:
            reason = self._note_cost(trial, run)
            if not reason:
                return run, ""
        trial.set_user_attr(REFUSED, reason)
        self._study.tell(trial, state=TrialState.PRUNED)
        return None, reason

    def _note_cost(self, trial: Trial, run: StudyRun) -> str:
        """Notes what the student costs; says so instead if that is beyond a bound."""
        params, macs = cost_of_trial(run, self._settings)
        if (most := self._bounds.macs) is not None:
            trial.set_constraint(MACS, macs - most)
            if macs > most:
                return f"its student has {macs:,} MACs, and the most is {most:,.0f}"
        known = self.known_latency.get(shape_of(run))
        if known is not None and (most := self._bounds.milliseconds) is not None and known > most:
            trial.set_constraint(MILLISECONDS, known - most)
            return f"its student takes {known:.2f} ms, and the most is {most:g}"
        trial.set_user_attr(PARAMETERS, params)
        trial.set_user_attr(MACS, macs)  # last: whoever has it was proposed to the end
        return ""


def shape_of(run: StudyRun) -> Shape:
    """What decides how long a trial's student takes."""
    return run.arch, run.shared.width, run.shared.image_size
