"""How far the pairs of trainings are, and how often a GPU is needed for the rest."""

from statistics import median

import msgspec

from runtime.model.locate import RESULT
from training.records.journal import JOURNAL
from training.studies.evidence_plan import Scale, pairs_of_runs
from training.studies.pool import epochs_done
from training.studies.study_run import StudyRun


def print_plan(scale: Scale, *, minutes: float, others: float) -> None:
    """Prints what is finished and begun of the pairs, and how many runs of a GPU the rest needs.

    Args:
        scale: of the studies.
        minutes: for which the GPU is to be had at a time.
        others: how many of them are not for training.
    """
    left: dict[str, list[float]] = {}
    unknown = 0
    seconds: dict[str, float] = {}
    pairs = pairs_of_runs(scale)
    for pair in pairs:
        if measured := [x for run in pair for x in _epoch_seconds(run)]:
            seconds[pair[0].arch] = median(measured)
    for pair in pairs:
        first, second = pair
        done = [run.recipe.epochs if is_finished(run) else epochs_done(run) for run in pair]
        shared, least = _shared_top1(pair), first.recipe.epochs - min(done)
        names = f"{first.arch} seed {first.seed}: {first.method.name} and {second.method.name}"
        state = f"{min(done)} of {first.recipe.epochs} epochs"
        print(f"{first.study:7} {names:48} {state}{shared}")
        if first.arch not in seconds:
            unknown += least
        else:
            left.setdefault(first.study, []).append(least * seconds[first.arch])
    usable = minutes - others
    for study, each in left.items():
        hours = sum(each) / 3600
        runs = -(-sum(each) // (60 * usable))
        print(f"{study}: {hours:.1f} h are left, {runs:.0f} runs of {minutes:g} minutes")
    if unknown:
        print(f"{unknown} epochs of pairs are left whose seconds were not measured yet")
    print(
        "goals: 77.0 % (MobileNetV2) and 75.3 % (ShuffleNetV2) with strong, +2.0 points with main"
    )


def is_finished(run: StudyRun) -> bool:
    """Whether the run has its result."""
    return (run.folder / RESULT).is_file()


def _epochs(run: StudyRun) -> list[dict[str, float]]:
    journal = run.folder / JOURNAL
    if not journal.is_file():
        return []
    return [msgspec.json.decode(line) for line in journal.read_bytes().splitlines()]


def _epoch_seconds(run: StudyRun) -> list[float]:
    """Of every epoch but the first, in which the step is compiled."""
    return [float(epoch["seconds"]) for epoch in _epochs(run)[1:]]


def _shared_top1(pair: tuple[StudyRun, StudyRun]) -> str:
    """Both test accuracies at the last epoch that both runs have, "" before the first one."""
    first, second = (_epochs(run) for run in pair)
    shared = min(len(first), len(second))
    if not shared:
        return ""
    accuracies = " and ".join(f"{100 * each[shared - 1]['top1']:.2f}" for each in (first, second))
    return f", top-1 {accuracies} % after {shared}"
