"""What a peer gets of a batch, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAST = "last"  # the feature map that the student pools for its classifier
BEFORE_LAST = "before last"  # the one before, a stage earlier or what the last convolution reads
STAGES = ("stage1", "stage2", "stage3")


class Seen(NamedTuple):
    """A student's logits (N, K) and the feature maps (N, C, H, W) that the peer reads, by name."""

    logits: Tensor
    features: dict[str, Tensor]


class PeerBatch(NamedTuple):
    """A batch as a peer needs it; everything is on the device."""

    images: Tensor  # uint8 (N, H, W, 3), as stored
    pixels: Tensor  # float32 (N, 3, S, S), augmented
    labels: Tensor  # int64 (N,)
    rows: Tensor  # int64 (N,): which training images these are
    partners: Tensor | None  # as pixels: for each image another one of its class
    augment: Callable[[Tensor], Tensor]  # new pixels of stored images


@dataclass(frozen=True)
class PeerFacts:
    """What a peer is built for."""

    arch: str
    num_classes: int
    channels: dict[str, int]  # of the stages, BEFORE_LAST and LAST
    classifier: nn.Linear
    labels: Tensor  # int64 (M,), of all training images
    image_shape: tuple[int, ...]  # (H, W, 3), as stored
    batch_size: int
    steps_per_epoch: int
    epochs: int
    device: torch.device


Student = Callable[[Tensor], Seen]


class Peer(nn.Module, ABC):
    """A method: its parameters are learned with the student's, its buffers are its memory.

    `terms` may not branch on values of tensors, so that a captured step can hold it. Sources write
    their losses as sums; the terms are the summands, already weighted.
    """

    term_names: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]] = ()  # of STAGES, BEFORE_LAST and LAST
    needs_partners: ClassVar[bool] = False
    remembers_images: ClassVar[bool] = False  # each of them, from epoch to epoch

    def __init__(self, facts: PeerFacts) -> None:
        super().__init__()

    @abstractmethod
    def terms(self, student: Student, batch: PeerBatch) -> dict[str, Tensor]:
        """The terms by `term_names`, float32 scalars, in the mean over the batch."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K) against labels (N,) or probabilities (N, K), float32."""
    return F.cross_entropy(logits.float(), labels)


def without_target(values: Tensor, labels: Tensor) -> Tensor:
    """Values (N, K) without each row's own class: (N, K - 1), in order."""
    count, classes = values.shape
    columns = torch.arange(classes - 1, device=values.device).expand(count, -1)
    return values.gather(1, columns + (columns >= labels[:, None]))
