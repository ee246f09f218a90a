"""What a study compares: a StudyMethod is a choice of methods, and changes to the recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from training.config.idle_keys import idle_keys
from training.config.method_registry import (
    NO_PEER,
    chosen_methods,
    method_names,
    terms_word,
)
from training.config.recipe import (
    PEER_NAMES,
    Recipe,
    default_recipe,
    laid_on,
    load_recipe,
    recipe_from_values,
)

BASELINE = "ce"  # what all others are compared with
_SMOOTHING = 0.1


@dataclass(frozen=True)
class StudyMethod:
    """A method as a study names it.

    Attributes:
        name: the word for it, also in tables.
        drg: whether `--drg` is given to its runs.
        dsr: the same for `--dsr`.
        changes: to the recipe that all methods of the study share.
    """

    name: str
    drg: bool = False
    dsr: bool = False
    changes: dict[str, object] = field(default_factory=dict)

    @property
    def terms(self) -> str:
        """What result.json calls the distillation terms of its runs."""
        return terms_word(self.methods)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names, as the registry has them, of the methods of its runs."""
        chosen = {"drg": self.drg, "dsr": self.dsr}
        terms = [name for name in method_names("term") if chosen.get(name, False)]
        return chosen_methods(terms, peer=str(self.changes.get("peer", NO_PEER)))

    def recipe_on(self, shared: Recipe) -> Recipe:
        """The shared recipe with the changes.

        Raises:
            UserError: if the changes contradict the shared recipe.
        """
        values = laid_on(shared, self.changes)
        return recipe_from_values(values, source=f"method {self.name}")


METHODS = {
    method.name: method
    for method in (
        StudyMethod(BASELINE),
        StudyMethod("ls", changes={"label_smoothing": _SMOOTHING}),
        StudyMethod("ds", drg=True, changes={"drg_weight": 0.0}),  # the head's cross-entropy alone
        StudyMethod("drg", drg=True),
        StudyMethod("dsr", dsr=True),
        StudyMethod("drg+dsr", drg=True, dsr=True),
        *(StudyMethod(peer, changes={"peer": peer}) for peer in PEER_NAMES),
    )
}


# Cross-entropy with each way of making rare classes count more.
RARE_METHODS = {
    method.name: method
    for method in (
        StudyMethod("sqrt", changes={"class_weights": "sqrt"}),
        StudyMethod("balanced", changes={"class_weights": "balanced"}),
        StudyMethod("sampled", changes={"balanced_sampling": True}),
    )
}
NAMED_METHODS = METHODS | RARE_METHODS


def without_duplicates(
    methods: Sequence[StudyMethod], shared: Recipe, *, say: Callable[[str], None]
) -> list[StudyMethod]:
    """`methods` without those that train exactly like another one, on the recipe that all share.

    An example is label smoothing on a recipe that smooths labels by itself: it would differ from
    cross-entropy by chance alone. `say` gets a sentence about each method that is left out.
    """
    kept: list[tuple[StudyMethod, object]] = []
    # Methods without changes come first, so that they are the ones that stay.
    for method in sorted(methods, key=lambda method: bool(method.changes)):
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


def method_of(terms: str, recipe: Mapping[str, object], *, data: str) -> StudyMethod:
    """The method of a run, by its terms and its recipe.

    Changes that the recipe of `data` has by itself do not count: photographs always have label
    smoothing, so a run on them is not the method "ls".

    Args:
        terms: as in result.json.
        recipe: as in result.json.
        data: the data set's name.
    """
    own = msgspec.to_builtins(load_recipe(default_recipe(data)))
    fitting = [
        method
        for method in NAMED_METHODS.values()
        if method.terms == terms
        and method.changes.items() <= recipe.items()
        and not (method.changes and method.changes.items() <= own.items())
    ]
    if not fitting:  # with a teacher, which no study compares by itself
        return StudyMethod(terms)
    return max(fitting, key=lambda method: len(method.changes))
