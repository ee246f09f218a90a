"""Weights to start from: torchvision's pretrained ones or a file."""

from collections.abc import Collection, Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from runtime.base.errors import UserError, first_line
from runtime.base.files import sha256_of
from training.config.archs import MOBILENET
from training.networks.students import classifier_name, torchvision_name
from training.networks.weight_names import names_of_ours, of_the_network
from training.networks.weights_file import NO_WEIGHTS

RANDOM = "random"
PRETRAINED = "pretrained"
_COUNTER = ".num_batches_tracked"
_SHOWN = 3  # names in a message


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
            f"--weights {path} cannot be read ({error.strerror}); expected a .pt file "
            "or a .safetensors file"
        ) from error


def pretrained_weights(arch: str, width: float) -> dict[str, Tensor]:
    """Torchvision's best ImageNet weights, downloaded once into its cache and checked by hash."""
    if arch == MOBILENET and width != 1:
        raise UserError(f"--pretrained: torchvision has {arch} at width 1.0 only, not {width:g}")
    weights = models.get_model_weights(torchvision_name(arch, width))
    try:
        state: dict[str, Tensor] = weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
    except (OSError, HTTPException, *NO_WEIGHTS) as error:  # URLError is an OSError
        raise UserError(
            f"--pretrained: the weights of {arch} cannot be downloaded to {torch.hub.get_dir()} or "
            f"read there ({first_line(error)}); connect, remove a broken file there, "
            "or name a file with --weights"
        ) from error
    return state


def start_from(student: nn.Module, state: Mapping[str, object], *, arch: str) -> str | None:
    """Loads `state` into `student`; a classifier for other classes or of other layers is left out.

    The names may be those of other tools (`training.networks.weight_names`), and what is no part
    of the student is left out. Counters of batches (`num_batches_tracked`), which older files do
    not have, stay as they are.

    Returns:
        A sentence for the user that says what was left out, or None if nothing was.

    Raises:
        UserError: if anything else does not fit, or is not a finite number.
    """
    own = student.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    names = names_of_ours(tensors, own.keys(), arch=arch)
    found = {ours: tensors[name] for name, ours in names.items()}
    classifier = [f"{classifier_name(arch)}.{part}" for part in ("weight", "bias")]
    misfits = {name for name in found.keys() & own.keys() if not _fits(found[name], own[name])}
    head = f"{classifier_name(arch).partition('.')[0]}."
    layers = {name for name in found.keys() - own.keys() if name.startswith(head)}
    # Of a head of several layers none is kept: with the others left out it would mean nothing.
    dropped = [name for name in classifier if name in misfits or layers]
    kept = {name: value for name, value in found.items() if name in own and name not in dropped}
    counters = {name for name in own if name.endswith(_COUNTER)}
    for problem, wrong in (
        ("lacks", own.keys() - kept.keys() - counters - {*dropped}),
        ("has unknown", {n for n in found.keys() - own.keys() - layers if of_the_network(n, own)}),
        ("misfits", misfits - {*dropped}),
    ):
        if wrong:
            raise UserError(
                f"the weights are not those of {arch}: the file {problem} {_names(wrong)}"
            )
    converted = {name: value.to(own[name].dtype) for name, value in kept.items()}
    bad = {name for name, value in converted.items() if not value.isfinite().all()}
    if bad:
        raise UserError(
            f"the weights are not finite: NaN or infinity in {_names(bad)}; "
            "take a checkpoint from before the training diverged"
        )
    student.load_state_dict(converted, strict=False)
    unused = [name for name in state if names.get(name) not in own]
    other = f"is for {len(found[dropped[0]])} classes" if dropped and not layers else ""
    return _left_out(unused, classifier="has other layers" if layers else other)


def _fits(value: Tensor, own: Tensor) -> bool:
    plain = value.layout == torch.strided and not (value.is_quantized or value.is_complex())
    return plain and value.shape == own.shape


def _names(names: Collection[str]) -> str:
    """The first of the names, and how many more there are."""
    return f"{min(names)} and {len(names) - 1} more"


def _left_out(unused: list[str], *, classifier: str) -> str | None:
    sentences = []
    if classifier:
        sentences.append(f"the weights' classifier {classifier}: it was left out and starts afresh")
    if unused:
        shown = ", ".join(unused[:_SHOWN])
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        keys = "1 key" if len(unused) == 1 else f"{len(unused)} keys"
        sentences.append(f"left out {keys} of the weights' file: {shown}{more}")
    return "; ".join(sentences) or None
