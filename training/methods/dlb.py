"""Self-distillation from the last mini-batch (DLB).

Shen et al., CVPR 2022 (arXiv 2203.16172), github.com/Meta-knowledge-Lab/DLB, dlb.py. Cost: the
previous batch is forwarded and learned again, so a step does twice the work. Both halves go through
the network together here, with one set of BatchNorm statistics.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.data.batches import Batch
from training.methods.method import Method, Setting, Student, Terms, softened_kl

_TEMPERATURE = 3.0
_WEIGHT = 1.0


class Dlb(Method):
    """CE of both batches + α T² KL( σ(former logits / T) ‖ σ(logits now / T) ) on the previous one.

    The previous images come in a new augmentation; their former logits are from before the update.
    """

    term_names = ("cross_entropy", "last_batch")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        count, device = setting.recipe.batch_size, setting.device
        shape = (count, *setting.image_shape)
        self.add_memory("images", torch.zeros(shape, dtype=torch.uint8, device=device))
        self.add_memory("labels", torch.zeros(count, dtype=torch.int64, device=device))
        self.add_memory("logits", torch.zeros(count, setting.num_classes, device=device))
        self.add_memory("present", torch.zeros((), device=device))

    def partner_images(self, stored: Batch) -> Tensor | None:
        """The images of the previous batch."""
        return self.get_buffer("images")

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy of both batches, and the divergence from the former logits."""
        assert batch.partners is not None
        present = self.get_buffer("present")
        # The first batch of a run has no predecessor and is learned alone. It goes through the
        # network twice, because a captured step has one shape, and not beside the black images of
        # an empty memory, which would be in the statistics of its BatchNorm.
        former = torch.where(present > 0, batch.partners, batch.images)
        now, current = student(torch.cat([former, batch.images])).logits.chunk(2)
        share = 0.5 * present
        entropy = (1 - share) * self.cross_entropy(current, batch.labels)
        entropy = entropy + share * self.cross_entropy(now, self.get_buffer("labels"))
        distilled = softened_kl(self.get_buffer("logits"), now, temperature=_TEMPERATURE)
        return Terms(
            {"cross_entropy": entropy, "last_batch": _WEIGHT * present * distilled},
            {"logits": current.detach()},
        )

    def remember(self, memory: Mapping[str, Tensor], stored: Batch) -> None:
        """Takes over the batch that was just learned from: images, labels and logits."""
        own = {"images": stored.images, "labels": stored.labels}
        super().remember({**memory, **own}, stored)
        self.get_buffer("present").fill_(1.0)
