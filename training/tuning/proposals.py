"""Spaces and values as Optuna has them."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from training.tuning.search_space import Choices, Range, Space, is_whole
from training.tuning.trial_runs import SearchSettings

_LIST = "json:"  # before a list, which Optuna takes as a word


def distribution_of(key: str, dimension: Range | Choices) -> BaseDistribution:
    """What Optuna calls this dimension."""
    if isinstance(dimension, Choices):
        # Optuna takes plain values only. `plain` reads the others.
        return CategoricalDistribution([word_of(value) for value in dimension.values])
    if is_whole(key):
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def is_among(dimension: Range | Choices, value: Any) -> bool:
    """Whether the dimension has this value."""
    if isinstance(dimension, Choices):
        return value in dimension.values
    return bool(dimension.low <= value <= dimension.high)


def word_of(value: Any) -> Any:
    """What Optuna is told of a value; lists are words to it."""
    return _LIST + json.dumps(value) if isinstance(value, list) else value


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a trial's parameters, as the space has them."""
    return {
        key: json.loads(value.removeprefix(_LIST))
        if isinstance(value, str) and value.startswith(_LIST)
        else value
        for key, value in params.items()
    }


def own_values(space: Space, settings: SearchSettings) -> dict[str, Any]:
    """The values that the recipe and the command line have, as far as the space has them."""
    own = msgspec.to_builtins(settings.recipe) | {
        "width": settings.shared.width,
        "image_size": settings.shared.image_size or settings.image_size,
        "drg": settings.drg,
        "dsr": settings.dsr,
    }
    if settings.recipe.taps:  # then no value of `tap` is the recipe's own
        del own["tap"]
    known = {key: each for key, each in space.items() if key in own}
    return {key: word_of(own[key]) for key, each in known.items() if is_among(each, own[key])}
