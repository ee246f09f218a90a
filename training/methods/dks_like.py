"""Heads and output that teach each other, in the manner of DKS.

After Sun et al., "Deeply-Supervised Knowledge Synergy", CVPR 2019 (arXiv 1906.00675), in which each
pair of classifiers matches. Here the output learns from the heads' mean answer, as in DRG with
several taps, and each head from the output. Cost: that of DRG with two heads.
"""

from training.config.recipe import Recipe
from training.data.batches import Batch
from training.methods.drg_dsr import Drg
from training.methods.method import Student, Terms, softened_kl

_TAPS = (2, 3)
_BACK_WEIGHT = 0.2


class DksLike(Drg):
    """DRG's terms and CE(z, y) + 0.2 T² Σ_j KL( σ(z / T), no gradient ‖ σ(z_j / T) )."""

    term_names = ("cross_entropy", "auxiliary_cross_entropy", "drg", "back")

    @staticmethod
    def taps_of(recipe: Recipe) -> tuple[int, ...]:
        """The recipe's `taps`; without them, the second and the third stage."""
        return recipe.taps or _TAPS

    def terms(self, student: Student, batch: Batch) -> Terms:
        """Both cross-entropies, the guidance of the output, and that of the heads."""
        recipe = self.setting.recipe
        outputs = student(batch.images)
        logits, answers = outputs.logits, self.answers(outputs)
        first, *others = [
            softened_kl(logits, answer, temperature=recipe.temperature) for answer in answers
        ]
        return Terms(
            {
                "cross_entropy": self.cross_entropy(
                    logits, batch.labels, label_smoothing=recipe.label_smoothing
                ),
                **self.guidance(logits, answers, batch),
                "back": _BACK_WEIGHT * self.setting.scale * sum(others, first),
            }
        )
