"""A step that learns what a peer wants instead of the objective of DRG and DSR."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from training.engine.step import Step, StepParts, autocast
from training.methods.peer import Peer, PeerBatch, Seen


class StageReader:
    """Runs a student and keeps the feature maps of the modules named by `modules`, key by key."""

    def __init__(self, student: nn.Module, modules: dict[str, str]) -> None:
        self._student = student
        self._features: dict[str, Tensor] = {}
        for key, name in modules.items():
            student.get_submodule(name).register_forward_hook(partial(self._keep, key))

    def __call__(self, pixels: Tensor) -> Seen:
        logits = self._student(pixels)
        features, self._features = self._features, {}
        return Seen(logits, features)

    def _keep(
        self, key: str, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        self._features[key] = output


class PeerStep(Step):
    """Takes the numbers of training images where a Step takes labels."""

    def __init__(
        self,
        parts: StepParts,
        *,
        peer: Peer,
        student: Callable[[Tensor], Seen],
        labels: Tensor,
    ) -> None:
        super().__init__(parts)
        self._peer = peer
        self._student = student
        self._labels = labels  # int64 (M,), of all training images

    def compute(self, images: Tensor, labels: Tensor) -> None:
        """Gradients of the peer's terms on a batch; `labels` are the rows of its images.

        For a peer with partners the second half of the batch are those of the first.
        """
        rows, partners = labels, None
        if self._peer.needs_partners:
            (images, others), (rows, _) = images.chunk(2), rows.chunk(2)
            partners = self._augment(others)
        batch = PeerBatch(
            images=images,
            pixels=self._augment(images),
            labels=self._labels[rows],
            rows=rows,
            partners=partners,
            augment=self._augment,
        )
        with autocast(self._parts.device, self._precision):
            terms = self._peer.terms(self._student, batch)
        self._differentiate(terms)

    def _augment(self, images: Tensor) -> Tensor:
        # Labels only matter to mixing, which a recipe with a peer has off.
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        pixels, _ = self._parts.prepare(images, labels)
        return pixels
