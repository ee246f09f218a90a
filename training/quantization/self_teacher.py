"""What a student learns while it is trained for int8: to answer as its own float32 self does."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.data.batches import Batch
from training.methods.drg_dsr import Drg
from training.methods.method import (
    FeatureReader,
    Method,
    Outputs,
    Setting,
    Student,
    Terms,
    softened_kl,
)


class SelfTeacher(Method):
    """T² KL( σ(z32 / T) ‖ σ(z8 / T) ) of the recipe's `temperature`, and the same of DRG's heads.

    z32 are the logits of the float32 student, which is frozen and sees the same pixels, z8 those
    through int8 numbers. Labels are not asked: the file shall answer as the float32 student does.
    The heads that DRG left, frozen, read the same stage of both students, and so say before the
    last layer what int8 has changed; their term has the weight `drg_weight`.
    """

    term_names = ("self_kl", "head_kl")

    def __init__(self, setting: Setting, teacher: FeatureReader, heads: Drg | None) -> None:
        """`teacher` gives the float32 student's outputs; it and `heads` never learn."""
        super().__init__(setting)
        # In a tuple, torch does not see a module: neither the checkpoint nor `train()` reach it.
        self._held: tuple[Callable[[Tensor], Outputs], Drg | None] = (teacher, heads)

    @property
    def reads(self) -> tuple[str, ...]:
        heads = self._held[1]
        return () if heads is None else heads.reads

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The divergences of the answers through int8 from those without it."""
        recipe, (teacher, heads) = self.setting.recipe, self._held
        found = student(batch.images)
        with torch.no_grad():
            taught = teacher(batch.images)
        values = {
            "self_kl": softened_kl(taught.logits, found.logits, temperature=recipe.temperature),
            "head_kl": torch.zeros((), device=found.logits.device),
        }
        if heads is not None:
            pairs = zip(heads.answers(taught), heads.answers(found), strict=True)
            divergences = [softened_kl(*pair, temperature=recipe.temperature) for pair in pairs]
            values["head_kl"] = recipe.drg_weight * torch.stack(divergences).mean()
        return Terms(values)


def frozen(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, whose weights have no gradient."""
    return module.requires_grad_(requires_grad=False).eval()
