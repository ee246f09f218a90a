"""Weights to start from: torchvision's pretrained ones or a file."""

import pickle
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from runtime.base.errors import UserError, first_line
from runtime.base.files import sha256_of
from training.config.archs import MOBILENET
from training.networks.students import classifier_name, torchvision_name

RANDOM = "random"
PRETRAINED = "pretrained"
# What torch raises for a damaged file, and for a download with the wrong hash.
_NO_WEIGHTS = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError)


def weights_word(*, pretrained: bool, path: Path | None) -> str:
    """How a plan names the weights: "random", "pretrained" or "sha256:" and a file's digest."""
    if pretrained:
        return PRETRAINED
    if path is None:
        return RANDOM
    try:
        return f"sha256:{sha256_of(path)}"
    except OSError as error:
        raise UserError(
            f"--weights {path} cannot be read ({error.strerror}); expected a .pt file"
        ) from error


def pretrained_weights(arch: str, width: float) -> dict[str, Tensor]:
    """Torchvision's best ImageNet weights, downloaded once into its cache and checked by hash."""
    if arch == MOBILENET and width != 1:
        raise UserError(f"--pretrained: torchvision has {arch} at width 1.0 only, not {width:g}")
    weights = models.get_model_weights(torchvision_name(arch, width))
    try:
        state: dict[str, Tensor] = weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
    except (OSError, HTTPException, *_NO_WEIGHTS) as error:  # URLError is an OSError
        raise UserError(
            f"--pretrained: the weights of {arch} cannot be downloaded to {torch.hub.get_dir()} or "
            f"read there ({first_line(error)}); connect, remove a broken file there, "
            "or name a file with --weights"
        ) from error
    return state


def weights_from_file(path: Path) -> dict[str, Tensor]:
    """A student's state dict: the file's own, or the student of one of our checkpoints."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"--weights {path} cannot be read ({first_line(error)}); expected a .pt file"
        ) from error
    except _NO_WEIGHTS as error:  # torch's own message tells how to load unsafe files
        raise UserError(
            f"--weights {path} is no whole file of tensors alone; expected a .pt file of a state "
            "dict, as torch.save(student.state_dict(), FILE) writes"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("student"), dict):
        content = content["student"]
    if (
        not isinstance(content, dict)
        or not content  # an empty file would silently start from random weights
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise UserError(f"--weights {path} holds no state dict of tensors")
    return content


def start_from(student: nn.Module, state: dict[str, Tensor], *, arch: str) -> str | None:
    """Loads `state` into `student`; a classifier for another number of classes is left out.

    Returns:
        A sentence for the user if the classifier was left out, else None.

    Raises:
        UserError: if anything else does not fit.
    """
    own = student.state_dict()
    classifier = tuple(f"{classifier_name(arch)}.{part}" for part in ("weight", "bias"))
    dropped = [n for n in classifier if n in state and state[n].shape != own[n].shape]
    kept = {name: value for name, value in state.items() if name not in dropped}
    foreign = sorted(kept.keys() - own.keys())
    missing = sorted(own.keys() - kept.keys() - set(dropped))
    wrong = sorted(n for n in kept.keys() & own.keys() if kept[n].shape != own[n].shape)
    for problem, names in (("lacks", missing), ("has unknown", foreign), ("misfits", wrong)):
        if names:
            raise UserError(
                f"the weights are not those of {arch}: the file {problem} {names[0]} "
                f"and {len(names) - 1} more"
            )
    student.load_state_dict(kept, strict=False)
    if not dropped:
        return None
    classes = len(state[dropped[0]])
    return f"the weights' classifier is for {classes} classes: it was left out and starts afresh"
