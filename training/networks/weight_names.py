"""The names of weights in other tools' files, and what they are called in our students."""

import re
from collections.abc import Collection, Iterable

from runtime.base.errors import UserError
from training.config.archs import MOBILENET

# What DistributedDataParallel, Lightning modules, distillation loops and torch.compile put in
# front of the names.
PREFIXES = ("module.", "model.", "student.", "_orig_mod.")
_PREFIXED = re.compile(rf"(?:{'|'.join(map(re.escape, PREFIXES))})*")

# The DenseNets that torchvision publishes are named as in 2017, `norm.1` where it is `norm1` now.
# torchvision renames them while loading (torchvision.models.densenet._load_state_dict).
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")

_TIMM_STEM = "conv_stem.weight"
_TIMM_BLOCKS = "blocks"
_BLOCKS_IN_STAGE = (1, 2, 3, 4, 3, 3, 1)  # of MobileNetV2
_FIRST_BLOCK = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}  # does not expand
_BLOCK = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "2",
    "bn3": "3",
}


def _timm_modules() -> dict[str, str]:
    """The modules of timm's `mobilenetv2_*`, and what they are called in torchvision's."""
    names = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "features.18.0",
        "bn2": "features.18.1",
        "classifier": "classifier.1",
    }
    number = 0
    for stage, blocks in enumerate(_BLOCKS_IN_STAGE):
        for block in range(blocks):
            number += 1
            for timm, ours in (_FIRST_BLOCK if stage == 0 else _BLOCK).items():
                names[f"{_TIMM_BLOCKS}.{stage}.{block}.{timm}"] = f"features.{number}.conv.{ours}"
    return names


_TIMM = _timm_modules()


def names_of_ours(names: Collection[str], own: Collection[str], *, arch: str) -> dict[str, str]:
    """What the weights `names` of a file are called in a student that has the weights `own`.

    All weights of a student have the same words in front of their names, such as "model.". Names
    without these words are absent from the answer: they are of something else in the file.

    Raises:
        UserError: if two sets of weights in the file fit the student equally well.
    """
    anchors = {next(iter(own))} | ({_TIMM_STEM} if arch == MOBILENET else set())
    prefixes = {
        name.removesuffix(anchor)
        for name in names
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    } or {""}
    fits = {prefix: _below(prefix, names, arch) for prefix in prefixes}
    counts = {prefix: len(set(own).intersection(found.values())) for prefix, found in fits.items()}
    most = max(counts.values())
    return fits[_one_of([prefix for prefix in sorted(fits) if counts[prefix] == most])]


def of_the_network(name: str, own: Iterable[str]) -> bool:
    """Whether a weight that no student has is a further layer of the network itself.

    Such a file is of another network, while a loss or a second head can be left out.
    """
    return name.partition(".")[0] in {_TIMM_BLOCKS, *(each.partition(".")[0] for each in own)}


def _one_of(prefixes: list[str]) -> str:
    usual = [prefix for prefix in prefixes if _PREFIXED.fullmatch(prefix)]
    chosen = usual or prefixes
    if len(chosen) > 1:
        raise UserError(
            f"the weights' file holds several networks that fit, below {' and '.join(chosen)!s}; "
            "save the state dict of one of them"
        )
    return chosen[0]


def _below(prefix: str, names: Iterable[str], arch: str) -> dict[str, str]:
    below = [name for name in names if name.startswith(prefix)]
    timm = arch == MOBILENET and f"{prefix}{_TIMM_STEM}" in below
    return {name: _renamed(name.removeprefix(prefix), timm=timm) for name in below}


def _renamed(name: str, *, timm: bool) -> str:
    if timm:
        module, _, value = name.rpartition(".")
        return f"{_TIMM.get(module, module)}.{value}"
    return _OLD_DENSENET.sub(r"\1\2.", name)
