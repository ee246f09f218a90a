"""Which keys of a recipe have no effect in a run, and a line for each that a user has set."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from training.config.method_registry import (
    METHOD_REGISTRY,
    NO_PEER,
    method_names,
    terms_of_word,
)
from training.config.recipe import Recipe

# Keys of the recipe that not every method reads, and keys that all terms read.
_KEYS = {name: entry.keys for name, entry in METHOD_REGISTRY.items() if entry.keys}
_OF_EITHER = frozenset({"temperature", "distillation_warmup_epochs"})
DISTILLATION_KEYS = _OF_EITHER.union(*_KEYS.values())


def idle_keys(terms: str, recipe: Mapping[str, object]) -> set[str]:
    """Keys of the recipe whose values have no effect in a run of these terms.

    Examples are DSR's teacher in a run without DSR, and the temperature where no term has a weight.

    Args:
        terms: as in result.json, for example "drg+dsr".
        recipe: as in result.json.
    """
    peer, named = str(recipe.get("peer", NO_PEER)), terms_of_word(terms)
    beside = [name for name in named if name in method_names("beside")]
    chosen = named if peer == NO_PEER else (peer, *beside)
    weighted = [
        name
        for name in chosen
        if name not in beside and recipe.get(f"{name}_weight", peer in _KEYS)
    ]
    idle = set() if weighted else set(_OF_EITHER)
    read = set().union(*(_KEYS.get(name, set()) for name in chosen))
    idle |= set().union(*_KEYS.values()) - read
    if recipe["dsr_teacher"] != "ema":
        idle.add("dsr_momentum")
    shape = str(recipe.get("dsr_shape", "paper"))
    if not shape.startswith("standardised"):
        idle.add("dsr_tau")
    if shape == "norm-variance":
        idle |= {"dsr_teacher", "dsr_momentum"}
    if recipe.get("taps"):
        idle.add("tap")
    return idle


def one_form(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with `tap` for one head of DRG: `taps` with one stage means the same.

    Whole methods read `taps` alone, so their recipes stay as they are.
    """
    taps = recipe["taps"]
    if len(taps) != 1 or recipe["peer"] != NO_PEER:
        return dict(recipe)
    return {**recipe, "tap": taps[0], "taps": taps[1:]}


def read_settings(terms: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe that has an effect in a run of these terms, in one form.

    Args:
        terms: as in result.json.
        recipe: with all keys.
    """
    own = one_form(recipe)
    idle = idle_keys(terms, own)
    return {key: value for key, value in own.items() if key not in idle}


def idle_words(
    settings: Iterable[str], recipe: Recipe, terms: str, *, crop: str, own_validation: bool
) -> list[str]:
    """A line for each key of `settings` that changes nothing in a run.

    Args:
        settings: keys of the recipe that the user has named for this run.
        recipe: of the run.
        terms: as in result.json.
        crop: what the recipe's `crop` means for the size of the images.
        own_validation: whether the data have validation images of their own.
    """
    needed = _needed(recipe, terms, crop=crop, own_validation=own_validation)
    for key in idle_keys(terms, msgspec.to_builtins(recipe)):
        needed[key] = f"no term of this run ({terms}, peer {recipe.peer}) reads it"
    return [f"--set {key} changes nothing here: {needed[key]}" for key in settings if key in needed]


def _needed(recipe: Recipe, terms: str, *, crop: str, own_validation: bool) -> dict[str, str]:
    """Why keys have no effect that `idle_keys` does not look at, by key."""
    fades_alone = recipe.dsr_fade and "drg" not in terms_of_word(terms)
    mixing = {"mixup", "cutmix", "mix_share", "unmixed_epochs"}
    unmixed = recipe.mix_share == 0 or recipe.unmixed_epochs >= recipe.epochs
    share = {"validation_fraction", "validation_fold"}
    reasons = (
        (recipe.schedule != "step", {"milestones", "milestone_factor"}, "schedule is not step"),
        (recipe.optimizer != "sgd", {"momentum"}, "optimizer is not sgd"),
        (not recipe.weight_decay, {"decay_norms_and_biases"}, "weight_decay is 0"),
        (unmixed, mixing, "mix_share or unmixed_epochs leaves no image to mix"),
        (
            not (recipe.mixup or recipe.cutmix),
            {"mix_share", "unmixed_epochs"},
            "mixup and cutmix are 0",
        ),
        (fades_alone, {"distillation_warmup_epochs"}, "dsr_fade takes its place for DSR"),
        (crop != "pad", {"padding"}, f"crop is {crop} here, not pad"),
        (crop != "resized", {"crop_scale"}, f"crop is {crop} here, not resized"),
        (not recipe.validation_fraction, {"validation_fold"}, "validation_fraction is 0"),
        (own_validation, share, "the data have validation images of their own"),
    )
    return {key: reason for idle, keys, reason in reasons if idle for key in keys}
