"""The peers by name, and how one is made for a student."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.config.plan import Plan
from training.data import Dataset
from training.methods.byot import Byot
from training.methods.cs_kd import CsKd
from training.methods.ddgsd import Ddgsd
from training.methods.dlb import Dlb
from training.methods.peer import BEFORE_LAST, LAST, STAGES, Peer, PeerFacts
from training.methods.peer_step import StageReader
from training.methods.ps_kd import PsKd
from training.methods.tf_kd import TfKd
from training.methods.uskd import Uskd
from training.methods.zipf_ls import ZipfLs
from training.networks.students import (
    channels_at,
    classifier_name,
    last_map_name,
    map_before_last_name,
    tap_name,
)

PEERS: dict[str, type[Peer]] = {
    "byot": Byot,
    "cs-kd": CsKd,
    "ddgsd": Ddgsd,
    "dlb": Dlb,
    "ps-kd": PsKd,
    "tf-kd": TfKd,
    "uskd": Uskd,
    "zipf-ls": ZipfLs,
}


def build_peer(
    plan: Plan,
    student: nn.Module,
    dataset: Dataset,
    *,
    steps_per_epoch: int,
    device: torch.device,
) -> tuple[Peer, StageReader]:
    """The peer of the plan's recipe, and the student as the peer reads it."""
    kind = PEERS[plan.recipe.peer]
    modules = {stage: tap_name(plan.arch, 1 + STAGES.index(stage)) for stage in STAGES}
    modules[BEFORE_LAST] = map_before_last_name(plan.arch)
    modules[LAST] = last_map_name(plan.arch)
    classifier = student.get_submodule(classifier_name(plan.arch))
    assert isinstance(classifier, nn.Linear)
    facts = PeerFacts(
        arch=plan.arch,
        num_classes=plan.num_classes,
        channels={
            key: channels_at(student, name, plan.input.size) for key, name in modules.items()
        },
        classifier=classifier,
        labels=torch.from_numpy(np.array(dataset.train_labels)).to(device),
        image_shape=dataset.train_images.shape[1:],
        batch_size=plan.recipe.batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=plan.recipe.epochs,
        device=device,
    )
    peer = kind(facts).to(device).train()
    return peer, StageReader(student, {key: modules[key] for key in kind.reads})


def needs_partners(peer: str) -> bool:
    """Whether a recipe's `peer` compares images with others of their class."""
    return peer in PEERS and PEERS[peer].needs_partners


def needs_one_process(peer: str) -> bool:
    """Whether a recipe's `peer` has a memory of images that another process may see next."""
    return peer in PEERS and PEERS[peer].remembers_images


def partner_rows(
    rows: NDArray[np.int64], labels: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """For each of `rows` (steps, N) another of them of the same class, itself if it is alone."""
    generator = np.random.default_rng((seed, epoch, 1))
    flat = rows.reshape(-1)
    order = np.argsort(labels[flat], kind="stable")
    sorted_rows, sorted_labels = flat[order], labels[flat[order]]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    counts = np.searchsorted(sorted_labels, sorted_labels, side="right") - starts
    # A step of 1 to count - 1 places round the class: never the image itself.
    steps = 1 + (generator.random(len(flat)) * np.maximum(1, counts - 1)).astype(np.int64)
    partners = np.empty_like(flat)
    places = starts + (np.arange(len(flat)) - starts + steps) % counts
    partners[order] = sorted_rows[places]
    return partners.reshape(rows.shape)
