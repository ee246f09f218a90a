"""What a search found: a table, a picture, and the best recipe as a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from runtime.base.files import write_atomic
from training.config.recipe import Recipe, laid_on
from training.records.plots import figure_of, save_figure
from training.studies.study_table import table_head, table_line
from training.tuning.proposals import plain
from training.tuning.proposer import MACS, MILLISECONDS, PARAMETERS
from training.tuning.search import Search
from training.tuning.search_space import apart

BEST, PICTURE = "best.yaml", "search.png"
_MOST_ROWS = 12
_LEAST_FOR_IMPORTANCE = 4  # finished trials


def search_table(search: Search) -> str:
    """A Markdown table of the trials, the best ones first, and of why others ended.

    A trial beyond a bound stands below those within it.
    """
    trials = search.trials()
    timed = any(MILLISECONDS in each.user_attrs for each in trials)
    head = ["trial", "validation top-1 %", "MACs", "parameters", *(["ms"] if timed else [])]
    rows = table_head([*head, "settings"])
    for each in sorted(trials, key=lambda each: _rank(search, each))[:_MOST_ROWS]:
        attributes = each.user_attrs
        value = _state(each)
        if each.state == TrialState.COMPLETE:
            value = f"{100 * float(each.value or 0):.2f}"
            value += "" if search.within_bounds(each) else " (beyond the bound)"
        costs = [f"{attributes.get(MACS, 0):,}", f"{attributes.get(PARAMETERS, 0):,}"]
        times = [f"{attributes[MILLISECONDS]:.2f}" if MILLISECONDS in attributes else ""]
        cells = [str(each.number), value, *costs, *(times if timed else [])]
        rows.append(table_line([*cells, _settings(plain(each.params))]))
    if len(trials) > _MOST_ROWS:
        rows.append(f"\n{len(trials) - _MOST_ROWS} more trials are in the search's journal.")
    return "\n".join(rows)


def best_recipe(
    values: Mapping[str, Any], recipe: Recipe, *, lines: Sequence[str], path: Path
) -> None:
    """Writes the recipe with these values of the space as a file for `--recipe`.

    Args:
        values: of the best trial.
        recipe: of the final training, with its own share of validation images.
        lines: of a comment above it.
        path: of the file.
    """
    import yaml  # imported here, so that a command without PyYAML can say so

    of_recipe, _ = apart(values)
    found = laid_on(recipe, of_recipe)
    comment = "".join(f"# {line}\n" for line in lines)
    write_atomic(path, (comment + yaml.safe_dump(found, sort_keys=False)).encode())


def draw_search(path: Path, search: Search) -> None:
    """Writes a PNG: how much each setting decided, and accuracy against MACs.

    Importance is by PED-ANOVA (Watanabe and others, IJCAI 2023, arXiv 2304.10255), which compares
    the settings of the best trials with those of all. It is left out below four finished trials.
    """
    figure, (settings, costs) = figure_of(figsize=(11, 4.5), ncols=2)
    importance = _importance(search)
    names = list(importance)[::-1]
    settings.barh(names, [100 * importance[name] for name in names], color="tab:blue")
    settings.set(xlabel="share of what decided (%)", title="settings")
    if not importance:
        settings.set(title="settings: too few finished trials")
    # Optuna also gives those that ended early a value: that of their last epoch.
    finished = _finished(search)
    points = sorted((each.user_attrs[MACS], float(each.value or 0)) for each in finished)
    costs.plot([m / 1e6 for m, _ in points], [100 * a for _, a in points], "o", alpha=0.6)
    front = front_of(points)
    costs.step([m / 1e6 for m, _ in front], [100 * a for _, a in front], where="post", color="k")
    costs.set(xlabel="MACs of an image (M)", ylabel="validation top-1 (%)", title="what it costs")
    costs.grid(alpha=0.3)
    save_figure(figure, path)


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, accuracy) that none is both cheaper and as accurate as."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _importance(search: Search) -> dict[str, float]:
    finished = _finished(search)
    if len(finished) < _LEAST_FOR_IMPORTANCE:
        return {}
    if len({each.value for each in finished}) == 1:  # nothing decided anything
        return {}
    return dict(optuna.importance.get_param_importances(search.study))


def _finished(search: Search) -> list[FrozenTrial]:
    return [each for each in search.trials() if each.state == TrialState.COMPLETE]


def _rank(search: Search, trial: FrozenTrial) -> tuple[bool, bool, float, int]:
    value = trial.value if trial.state == TrialState.COMPLETE else None
    beyond = value is not None and not search.within_bounds(trial)
    return value is None, beyond, -(value or 0.0), trial.number


def _state(trial: FrozenTrial) -> str:
    return {
        TrialState.PRUNED: "ended early",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "waits",
    }.get(trial.state, "")


def _settings(values: Mapping[str, Any]) -> str:
    words = (f"{v:.3g}" if isinstance(v, float) else str(v).lower() for v in values.values())
    return ", ".join(f"{key}={word}" for key, word in zip(values, words, strict=True))
