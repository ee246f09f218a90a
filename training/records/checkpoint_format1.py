"""Checkpoints of format 1, from before all methods were of one kind, as those of format 2.

Format 1 had one place for DRG's head, one for what DSR remembers and one for any other method.
"""

from typing import Any

from torch import Tensor

from training.config.method_registry import NO_PEER, chosen_methods, terms_of_word

# What other methods remembered; all else that they had were weights.
_MEMORY = {"images", "labels", "logits", "present", "bank", "steps"}


def converted(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of format 1 as format 2 has it.

    Raises:
        KeyError: if the content is not whole.
    """
    plan = dict(content["plan"])
    peer = plan["recipe"].get("peer", NO_PEER)
    plan["methods"] = chosen_methods(terms_of_word(plan.pop("terms")), peer=peer)
    training = dict(content["training"])
    states = [process["peer"] or {} for process in training["processes"]]
    head = _named("drg.head", content["auxiliary"] or {})
    weights = {key: value for key, value in states[0].items() if key not in _MEMORY}
    training["processes"] = [_process(own, peer) for own in training["processes"]]
    auxiliary = {**head, **_named(peer, weights)}
    return {**content, "plan": plan, "training": training, "auxiliary": auxiliary or None}


def _process(own: dict[str, Any], peer: str) -> dict[str, Any]:
    rest = {key: value for key, value in own.items() if key not in ("dsr_teacher", "peer")}
    memory = {key: value for key, value in (own["peer"] or {}).items() if key in _MEMORY}
    return {**rest, "memory": _named("dsr", own["dsr_teacher"] or {}) | _named(peer, memory)}


def _named(method: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{method}.{key}": value for key, value in state.items()}
