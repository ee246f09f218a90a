"""What a study compares: each method is terms and changes to the recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from runtime.base.errors import UserError
from training.config.method_registry import (
    METHOD_REGISTRY,
    NO_PEER,
    chosen_methods,
    method_names,
    terms_of_word,
    terms_word,
)
from training.config.recipe import (
    PEER_NAMES,
    Recipe,
    default_recipe,
    load_recipe,
    recipe_from_values,
)

BASELINE = "ce"  # what all others are compared with
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Method:
    """A row of a study; `changes` lie on top of the recipe that all rows share."""

    name: str
    drg: bool = False
    dsr: bool = False
    changes: dict[str, object] = field(default_factory=dict)

    @property
    def terms(self) -> str:
        """What result.json calls the distillation terms of this row."""
        return terms_word(self.methods)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of this row's runs."""
        chosen = {"drg": self.drg, "dsr": self.dsr}
        terms = [name for name in method_names("term") if chosen[name]]
        return chosen_methods(terms, peer=str(self.changes.get("peer", NO_PEER)))

    def recipe_on(self, shared: Recipe) -> Recipe:
        """The recipe of this row; UserError if the changes do not go with the rest."""
        values = msgspec.to_builtins(shared) | self.changes
        return recipe_from_values(values, source=f"method {self.name}")


METHODS = {
    method.name: method
    for method in (
        Method(BASELINE),
        Method("ls", changes={"label_smoothing": _SMOOTHING}),
        Method("ds", drg=True, changes={"drg_weight": 0.0}),  # the head's cross-entropy alone
        Method("drg", drg=True),
        Method("dsr", dsr=True),
        Method("drg+dsr", drg=True, dsr=True),
        *(Method(peer, changes={"peer": peer}) for peer in PEER_NAMES),
    )
}


# Keys of the recipe that only these terms read; the last are of both.
_OF_TERMS = {name: METHOD_REGISTRY[name].keys for name in method_names("term")}
_OF_EITHER = frozenset({"temperature", "distillation_warmup_epochs"})
DISTILLATION_KEYS = _OF_EITHER.union(*_OF_TERMS.values())


def idle_keys(terms: str, recipe: Mapping[str, object]) -> set[str]:
    """Keys of `recipe` (as in result.json) whose values change nothing in a run of `terms`.

    Such as DSR's teacher without DSR, or how both terms are softened where neither has a weight.
    """
    chosen = terms_of_word(terms)
    weighted = [term for term in chosen if recipe[f"{term}_weight"]]
    idle = set() if weighted else set(_OF_EITHER)
    for term, keys in _OF_TERMS.items():
        if term not in chosen:
            idle |= keys
    if recipe["dsr_teacher"] != "ema":
        idle.add("dsr_momentum")
    return idle


def methods_from_words(words: str) -> list[Method]:
    """Methods of a list such as "ce,ls,drg+dsr"; UserError for a word that is none."""
    names = words.split(",")
    for name in names:
        if name not in METHODS:
            raise UserError(f"--terms {name!r} is unknown; choose of {','.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]


def distinct(
    methods: Sequence[Method], shared: Recipe, *, say: Callable[[str], None]
) -> list[Method]:
    """`methods` without those whose changes change nothing of another, on the recipe they share.

    As label smoothing where the recipe smooths by itself: its row would differ from cross-entropy's
    by chance alone, under a name that says otherwise. `say` gets a sentence for each.
    """
    kept: list[tuple[Method, object]] = []
    for method in sorted(methods, key=lambda method: bool(method.changes)):  # plain ones stay
        recipe = msgspec.to_builtins(method.recipe_on(shared))
        idle = idle_keys(method.terms, recipe)
        trained = (method.terms, {key: recipe[key] for key in recipe.keys() - idle})
        same = next((other for other, former in kept if former == trained), None)
        if same is None:
            kept.append((method, trained))
            continue
        (key, value), *_ = method.changes.items()
        say(
            f"{method.name} is left out: the recipe has {key} {value} by itself, so it would be "
            f"the same training as {same.name}; --set {key}=ANOTHER_VALUE tells them apart"
        )
    names = {method.name for method, _ in kept}
    return [method for method in methods if method.name in names]


def method_of(terms: str, recipe: Mapping[str, object], *, data: str) -> Method:
    """The method that a run with these terms and this recipe (as in result.json) trained with.

    What the recipe of `data` has by itself, as photographs have label smoothing, is no method.
    """
    own = msgspec.to_builtins(load_recipe(default_recipe(data)))
    fitting = [
        method
        for method in METHODS.values()
        if method.terms == terms
        and method.changes.items() <= recipe.items()
        and not (method.changes and method.changes.items() <= own.items())
    ]
    return max(fitting, key=lambda method: len(method.changes))
