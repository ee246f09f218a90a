"""The methods by name: one line each. Imports nothing, so that a wrong name is answered at once.

To add a method, write one file in `training/methods/` and one line here (docs/extending.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.base.errors import UserError

# "base": cross-entropy, which every run has that does not choose a whole method.
# "term": added to the base by an option of its own name, such as `--drg`.
# "beside": added to the base or to a whole method by an option of its own, with all terms.
# "whole": replaces the base and all terms; the recipe's key `peer` chooses it.
Role = Literal["base", "term", "beside", "whole"]


@dataclass(frozen=True)
class MethodEntry:
    """Where a method is written, and how it is chosen.

    `home` is "module:Class" below `training.methods`; it is imported when a run is built. `keys`
    are the recipe's keys that not every method reads. `soft_labels`: whether a whole method takes
    smoothed and mixed labels.
    """

    home: str
    role: Role
    keys: frozenset[str] = frozenset()
    soft_labels: bool = False


BASE = "ce"
TEACHER = "teacher"
_HEADS = frozenset({"drg_weight", "tap", "taps", "head_width"})
_RANKS = frozenset(
    {
        "dsr_weight",
        "dsr_teacher",
        "dsr_momentum",
        "dsr_shape",
        "dsr_tau",
        "dsr_on",
        "dsr_fade",
    }
)
METHOD_REGISTRY = {
    BASE: MethodEntry("drg_dsr:CrossEntropy", "base"),
    "drg": MethodEntry("drg_dsr:Drg", "term", _HEADS),
    "dsr": MethodEntry("drg_dsr:Dsr", "term", _RANKS),
    TEACHER: MethodEntry(
        "teacher:Teacher", "beside", frozenset({"teacher_weight", "teacher_temperature"})
    ),
    "byot": MethodEntry("byot:Byot", "whole"),
    "cs-kd": MethodEntry("cs_kd:CsKd", "whole"),
    "ddgsd": MethodEntry("ddgsd:Ddgsd", "whole"),
    "dks-like": MethodEntry("dks_like:DksLike", "whole", _HEADS, soft_labels=True),
    "dlb": MethodEntry("dlb:Dlb", "whole"),
    "ps-kd": MethodEntry("ps_kd:PsKd", "whole"),
    "tf-kd": MethodEntry("tf_kd:TfKd", "whole"),
    "uskd": MethodEntry("uskd:Uskd", "whole"),
    "zipf-ls": MethodEntry("zipf_ls:ZipfLs", "whole"),
}
NO_PEER = "none"  # what the recipe's key `peer` is by default


def method_names(role: Role) -> tuple[str, ...]:
    """The names of all methods with that role, in the order of the registry."""
    return tuple(name for name, entry in METHOD_REGISTRY.items() if entry.role == role)


def chosen_methods(terms: Sequence[str], *, peer: str = NO_PEER) -> tuple[str, ...]:
    """The methods of a run, in the order in which their terms are added.

    Args:
        terms: names of methods with the role "term" or "beside".
        peer: the name of a whole method, or "none".

    Raises:
        UserError: if a whole method is to be combined with terms.
    """
    beside = [name for name in method_names("beside") if name in terms]
    if peer == NO_PEER:
        return (BASE, *(name for name in method_names("term") if name in terms), *beside)
    refused = [term for term in terms if term not in beside]
    if refused:
        raise UserError(
            f"the recipe's peer {peer} is another method; leave out "
            + " and ".join(f"--{term}" for term in refused)
        )
    return (peer, *beside)


def terms_word(methods: Sequence[str]) -> str:
    """What result.json and the run's name call the terms: "drg+dsr", or "ce" without any."""
    named = (*method_names("term"), *method_names("beside"))
    return "+".join(name for name in methods if name in named) or BASE


def terms_of_word(word: str) -> tuple[str, ...]:
    """The terms of a word that `terms_word` gave."""
    return tuple(name for name in word.split("+") if name != BASE)
