"""The objective: cross-entropy plus the weighted self-distillation terms, each by name.

CE(logits, y) + [DRG on] ( CE(auxiliary, y) + α · drg_loss ) + [DSR on] β · dsr_loss
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.methods.distiller import Outputs
from training.methods.dsr_teacher import DsrTeacher
from training.methods.losses import drg_loss, dsr_loss

CROSS_ENTROPY = "cross_entropy"
AUXILIARY_CROSS_ENTROPY = "auxiliary_cross_entropy"
DRG = "drg"
DSR = "dsr"


@dataclass(frozen=True)
class Objective:
    """Which terms count, and how much."""

    drg: bool
    dsr: bool
    drg_weight: float  # α
    dsr_weight: float  # β
    temperature: float
    label_smoothing: float = 0.0

    def term_names(self) -> tuple[str, ...]:
        """The names of the terms, in the order in which `terms` gives them."""
        drg = (AUXILIARY_CROSS_ENTROPY, DRG) if self.drg else ()
        return (CROSS_ENTROPY, *drg, *((DSR,) if self.dsr else ()))

    def terms(
        self,
        outputs: Outputs,
        labels: Tensor,
        teacher: DsrTeacher | None = None,
        *,
        scale: Tensor | float = 1.0,
    ) -> dict[str, Tensor]:
        """The weighted terms, float32 scalars; their sum is what is minimised.

        `labels` are int64 (N,) or probabilities (N, K). `scale` multiplies both distillation
        weights while they warm up.
        """
        terms = {CROSS_ENTROPY: self._cross_entropy(outputs.logits, labels)}
        if self.drg:
            auxiliary_logits = outputs.auxiliary_logits
            assert auxiliary_logits is not None, "DRG needs an auxiliary head"
            terms[AUXILIARY_CROSS_ENTROPY] = self._cross_entropy(auxiliary_logits, labels)
            guidance = drg_loss(outputs.logits, auxiliary_logits, temperature=self.temperature)
            terms[DRG] = self.drg_weight * scale * guidance
        if self.dsr:
            assert teacher is not None, "DSR needs the ranking of an earlier batch"
            shape = dsr_loss(outputs.logits, teacher.ranked, temperature=self.temperature)
            terms[DSR] = self.dsr_weight * scale * teacher.present() * shape
        return terms

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms."""
    return torch.stack(tuple(terms.values())).sum()
