"""Self-distillation from the last mini-batch (DLB).

Shen et al., CVPR 2022 (arXiv 2203.16172), github.com/Meta-knowledge-Lab/DLB, dlb.py. Cost: the
previous batch is forwarded and learned again, so a step does twice the work. Both halves go through
the network together here, with one set of BatchNorm statistics.
"""

import torch
from torch import Tensor

from training.methods.losses import softened_kl
from training.methods.peer import Peer, PeerBatch, PeerFacts, Student, cross_entropy

_TEMPERATURE = 3.0
_WEIGHT = 1.0


class Dlb(Peer):
    """CE of both batches + α T² KL( σ(former logits / T) ‖ σ(logits now / T) ) on the previous one.

    The previous images come in a new augmentation; their former logits are from before the update.
    """

    term_names = ("cross_entropy", "last_batch")

    def __init__(self, facts: PeerFacts) -> None:
        super().__init__(facts)
        count, device = facts.batch_size, facts.device
        shape = (count, *facts.image_shape)
        self.register_buffer("images", torch.zeros(shape, dtype=torch.uint8, device=device))
        self.register_buffer("labels", torch.zeros(count, dtype=torch.int64, device=device))
        self.register_buffer("logits", torch.zeros(count, facts.num_classes, device=device))
        self.register_buffer("present", torch.zeros((), device=device))

    def terms(self, student: Student, batch: PeerBatch) -> dict[str, Tensor]:
        present = self.get_buffer("present")
        again = batch.augment(self.get_buffer("images"))
        now, current = student(torch.cat([again, batch.pixels])).logits.chunk(2)
        # The first batch of a run has no predecessor and counts for both.
        share = 0.5 * present
        entropy = (1 - share) * cross_entropy(current, batch.labels)
        entropy = entropy + share * cross_entropy(now, self.get_buffer("labels").clone())
        former = self.get_buffer("logits").clone()
        distilled = softened_kl(former, now, temperature=_TEMPERATURE)
        weight = _WEIGHT * present.clone()
        self._remember(batch, current)
        return {"cross_entropy": entropy, "last_batch": weight * distilled}

    @torch.no_grad()
    def _remember(self, batch: PeerBatch, logits: Tensor) -> None:
        self.get_buffer("images").copy_(batch.images)
        self.get_buffer("labels").copy_(batch.labels)
        self.get_buffer("logits").copy_(logits)
        self.get_buffer("present").fill_(1.0)
