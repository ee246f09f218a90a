"""Distillation from another network that was trained before, usually a bigger one.

Hinton et al., 2015 (arXiv 1503.02531), section 2: the student's answers, softened by a temperature,
follow those of the teacher, beside whatever else it learns from. Cost: one pass of the teacher.
"""

import torch
from torch import nn

from training.data.batches import Batch
from training.methods.method import Method, Setting, Student, Terms, softened_kl


class Teacher(Method):
    """w · T² KL( σ(teacher / T) ‖ σ(z / T) ), of the recipe's `teacher_weight`, `_temperature`.

    The teacher sees the pixels that the student sees, augmented and mixed. It is frozen, in
    evaluation mode, and no part of the run's weights: the plan names it by its digest.
    """

    term_names = ("teacher",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        assert setting.teacher is not None, "a run with a teacher is built with its network"
        network = setting.teacher.requires_grad_(requires_grad=False).eval()
        network.to(device=setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # In a tuple, torch does not see a module: neither the checkpoint nor `train()` reach it.
        self._held: tuple[nn.Module] = (network,)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The divergence of the student's answers from the teacher's."""
        recipe = self.setting.recipe
        with torch.no_grad():
            taught = self._held[0](batch.images)
        logits = student(batch.images).logits
        divergence = softened_kl(taught, logits, temperature=recipe.teacher_temperature)
        return Terms({"teacher": recipe.teacher_weight * divergence})
