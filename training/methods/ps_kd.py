"""Progressive self-knowledge distillation (PS-KD).

Kim et al., ICCV 2021 (arXiv 2006.12000), github.com/lgcnsai/PS-KD-Pytorch, main.py and
loss/pskd_loss.py. Cost: a bank of all training images' probabilities, M·K floats; no pass more.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.methods.peer import Peer, PeerBatch, PeerFacts, Student, cross_entropy

_LAST_ALPHA = 0.8


class PsKd(Peer):
    """CE(z, (1 - α) y + α P), P the image's probabilities an epoch ago, α growing with the epoch.

    In epoch t of n, counted from 1, α is 0.8 t / n. Before an image was seen, P is its label.
    """

    term_names = ("progressive",)
    remembers_images = True

    def __init__(self, facts: PeerFacts) -> None:
        super().__init__(facts)
        self._steps_per_epoch = facts.steps_per_epoch
        self._epochs = facts.epochs
        bank = F.one_hot(facts.labels, facts.num_classes).float()
        self.register_buffer("bank", bank)
        self.register_buffer("steps", torch.zeros((), device=facts.device))

    def terms(self, student: Student, batch: PeerBatch) -> dict[str, Tensor]:
        bank, steps = self.get_buffer("bank"), self.get_buffer("steps")
        logits = student(batch.pixels).logits
        alpha = _LAST_ALPHA * (torch.floor(steps / self._steps_per_epoch) + 1) / self._epochs
        former = bank.index_select(0, batch.rows)
        hard = F.one_hot(batch.labels, former.shape[1]).float()
        targets = torch.lerp(hard, former, alpha)
        with torch.no_grad():
            bank.index_copy_(0, batch.rows, F.softmax(logits.float(), dim=1))
            steps += 1
        return {"progressive": cross_entropy(logits, targets)}
