"""Progressive self-knowledge distillation (PS-KD).

Kim et al., ICCV 2021 (arXiv 2006.12000), github.com/lgcnsai/PS-KD-Pytorch, main.py and
loss/pskd_loss.py. Cost: a bank of all training images' probabilities, M·K floats; no pass more.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch
from training.methods.method import Method, Setting, Student, Terms

_LAST_ALPHA = 0.8


class PsKd(Method):
    """CE(z, (1 - α) y + α P), P the image's probabilities an epoch ago, α growing with the epoch.

    In epoch t of n, counted from 1, α is 0.8 t / n. Before an image was seen, P is its label.
    """

    term_names = ("progressive",)
    remembers_images = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._steps_per_epoch = setting.steps_per_epoch
        self._epochs = setting.recipe.epochs
        bank = F.one_hot(setting.labels, setting.num_classes).float()
        self.add_memory("bank", bank)
        self.add_memory("steps", torch.zeros((), device=setting.device))

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy against labels mixed with former probabilities."""
        bank, steps = self.get_buffer("bank"), self.get_buffer("steps")
        logits = student(batch.images).logits
        # CUDA multiplies by 1 / steps_per_epoch, rounded: a whole quotient may come out a little
        # less, and half a step more is never less than it.
        epochs = torch.floor((steps + 0.5) / self._steps_per_epoch)
        alpha = _LAST_ALPHA * (epochs + 1) / self._epochs
        former = bank.index_select(0, batch.rows)
        hard = F.one_hot(batch.labels, former.shape[1]).float()
        targets = torch.lerp(hard, former, alpha)
        return Terms(
            {"progressive": self.cross_entropy(logits, targets)},
            {"probabilities": F.softmax(logits.detach().float(), dim=1)},
        )

    def remember(self, memory: Mapping[str, Tensor], stored: Batch) -> None:
        """Takes over the probabilities of the images in this batch."""
        self.get_buffer("bank").index_copy_(0, stored.rows, memory["probabilities"])
        steps = self.get_buffer("steps")
        steps += 1
