"""The product's own methods: cross-entropy, and the two self-distillation terms that go with it.

"Lightweight Self-Knowledge Distillation with Multi-source Information Fusion" (arXiv 2305.09183),
with the losses of its authors' code. A run of `--drg --dsr` minimises

    CE(logits, y) + CE(auxiliary, y) + α · drg_loss + β · dsr_loss

where the terms of a method that is not chosen are absent, together with its modules. The recipe's
keys are `drg_weight` (α), `dsr_weight` (β) and `temperature` (T); `taps`, `dsr_shape` and others
choose variants, which are ours where `training.methods.rank_shapes` does not say otherwise.
docs/training.md lists what differs from the authors' code, first of all a lighter head.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.config.recipe import Recipe
from training.data.batches import Batch
from training.methods.method import (
    STAGES,
    Method,
    Outputs,
    Setting,
    Student,
    Terms,
    mean_answer,
    softened_kl,
)
from training.methods.rank_shapes import (
    NORM_VARIANCE,
    mean_of_rows,
    norm_variance,
    rank_shape,
    shuffled_order,
    unmixed_rows,
)
from training.networks.layers import separable_convolution

MAX_CHANNELS = 512
_EXPANSION = 2  # of each of the two blocks
_FADE_IN = 0.1  # of a run: in this share `dsr_fade` lets the weight grow


class CrossEntropy(Method):
    """CE(logits, y), smoothed by the recipe's `label_smoothing`."""

    term_names = ("cross_entropy",)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy of the output."""
        logits = student(batch.images).logits
        smoothing = self.setting.recipe.label_smoothing
        return Terms(
            {"cross_entropy": self.cross_entropy(logits, batch.labels, label_smoothing=smoothing)}
        )


def drg_loss(logits: Tensor, auxiliary_logits: Tensor, *, temperature: float) -> Tensor:
    """Reverse guidance: the shallow head teaches the final one.

    T² · KL( σ(auxiliary_logits / T) ‖ σ(logits / T) ) of logits (N, K) and auxiliary logits (N, K),
    float32 scalar. The gradient reaches `logits` only.
    """
    return softened_kl(auxiliary_logits, logits, temperature=temperature)


class AuxiliaryHead(nn.Module):
    """Pool, two depthwise-separable convolutions of stride 2, global pool, linear.

    Its width follows the stage that it reads: C to 2C to 4C channels, at most 512. The pooling in
    front leaves a quarter of the positions to the first block, which keeps the head at a few per
    cent of a training step.
    """

    def __init__(self, channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        middle = _channels(channels * _EXPANSION * width)
        last = _channels(middle * _EXPANSION)
        self.blocks = nn.Sequential(
            separable_convolution(channels, middle), separable_convolution(middle, last)
        )
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K) of a feature map (N, C, H, W)."""
        pooled = F.avg_pool2d(features, 2, ceil_mode=True)
        mapped: Tensor = self.blocks(pooled)
        logits: Tensor = self.classifier(mapped.mean(dim=(2, 3)))
        return logits


def _channels(wanted: float) -> int:
    """`wanted` as a multiple of 8, which tensor cores need, and at most 512."""
    return min(MAX_CHANNELS, max(8, round(wanted / 8) * 8))


class Drg(Method):
    """The heads' cross-entropy, summed, + α · drg_loss: distillation with reverse guidance.

    One auxiliary head reads the stage `tap`, where the authors' code has one. Their abstract speaks
    of "edge, shape, and detail": with `taps`, several heads read a stage each, and the mean of
    their softened answers teaches the output. With `drg_weight` 0 only the heads' cross-entropy is
    left, which is deep supervision.
    """

    term_names: ClassVar[tuple[str, ...]] = ("auxiliary_cross_entropy", "drg")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._stages = [STAGES[tap - 1] for tap in self.taps_of(setting.recipe)]
        heads = [self._head_of(stage) for stage in self._stages]
        self.head = heads[0]
        self.other_heads = nn.ModuleList(heads[1:])
        setting.heads.update(zip(self._stages, heads, strict=True))

    @staticmethod
    def taps_of(recipe: Recipe) -> tuple[int, ...]:
        """The stages that have a head."""
        return recipe.taps or (recipe.tap,)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self._stages)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The heads' cross-entropy, and the divergence of the output from their mean answer."""
        outputs = student(batch.images)
        return Terms(self.guidance(outputs.logits, self.answers(outputs), batch))

    def answers(self, outputs: Outputs) -> list[Tensor]:
        """The logits (N, K) of each head."""
        heads = [self.head, *self.other_heads]
        pairs = zip(self._stages, heads, strict=True)
        return [head(outputs.features[stage]) for stage, head in pairs]

    def guidance(
        self, logits: Tensor, answers: Sequence[Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """The two terms, by name."""
        recipe = self.setting.recipe
        teacher = mean_answer(answers, temperature=recipe.temperature)
        divergence = drg_loss(logits, teacher, temperature=recipe.temperature)
        first, *others = [
            self.cross_entropy(answer, batch.labels, label_smoothing=recipe.label_smoothing)
            for answer in answers
        ]
        return {
            "auxiliary_cross_entropy": sum(others, first),
            "drg": recipe.drg_weight * self.setting.scale * divergence,
        }

    def _head_of(self, stage: str) -> AuxiliaryHead:
        setting = self.setting
        head = AuxiliaryHead(
            setting.channels[stage], setting.num_classes, width=setting.recipe.head_width
        )
        # The student's feature maps are channels last, too.
        return head.to(memory_format=torch.channels_last)


def dsr_loss(logits: Tensor, previous_ranked: Tensor, *, temperature: float) -> Tensor:
    """Shape-wise regularization: the ranked output keeps the shape of an earlier one.

    T² · KL( σ(previous_ranked / T) ‖ σ(sort(logits) / T) ) of logits (N, K) and ranked logits
    (N, K) or (1, K), one shape for all rows; float32 scalar. The gradient reaches `logits` only.
    """
    shape, _ = torch.sort(logits.float(), dim=1)
    return softened_kl(previous_ranked.expand_as(shape), shape, temperature=temperature)


def ranked(logits: Tensor) -> Tensor:
    """Logits (N, K) sorted ascending in each row, float32, detached: the next batch's teacher."""
    values, _ = torch.sort(logits.detach().float(), dim=1)
    return values


class Dsr(Method):
    """β · the divergence from a shape that is remembered of earlier batches.

    The recipe's `dsr_shape` says what is compared (`training.methods.rank_shapes`), `dsr_on` of
    which logits, and `dsr_teacher` what is remembered. The authors' code keeps the ranked logits of
    the previous batch row by row ("previous"). Their abstract asks for "a consistent shape of
    ranked model output for all data", which the batch's mean shape ("mean") and its moving average
    ("ema", of `dsr_momentum`) take literally. Pictures that mixup or CutMix has mixed neither learn
    nor teach: how sure an answer should be depends on how they were mixed.
    """

    term_names = ("dsr",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        recipe = setting.recipe
        self._heads = dict(setting.heads) if recipe.dsr_on == "auxiliary" else {}
        if recipe.dsr_on == "auxiliary" and not self._heads:
            raise UserError("dsr_on auxiliary needs the heads of --drg: add it, or name output")
        self._shape = rank_shape(recipe.dsr_shape, setting.num_classes)
        ranks = self._shape.ranks(setting.num_classes)
        rows = recipe.batch_size * (len(self._heads) or 1) if self._by_row else 1
        self.add_memory("ranked", torch.zeros(rows, ranks, device=setting.device))
        self.add_memory("updates", torch.zeros((), device=setting.device))
        self._mixing = bool(recipe.mixup or recipe.cutmix)
        if self._mixing and self._by_row:
            self.add_memory("unmixed", torch.ones(rows, device=setting.device))
        order = shuffled_order(ranks) if self._shape.shuffled else torch.arange(ranks)
        self.register_buffer("order", order.to(setting.device), persistent=False)
        if recipe.dsr_fade:
            self.add_memory("steps", torch.zeros((), device=setting.device))

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self._heads)

    @property
    def averaged_memory(self) -> tuple[str, ...]:
        # A shape of all rows is one for all processes; rows belong to their own process.
        if self._by_row or self.setting.recipe.dsr_shape == NORM_VARIANCE:
            return ()
        return ("ranked", "taught") if self._mixing else ("ranked",)

    @property
    def _by_row(self) -> bool:
        return self.setting.recipe.dsr_teacher == "previous"

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The divergence from what is remembered; 0 for the first batch, which has no teacher."""
        recipe = self.setting.recipe
        logits = self._compared(student(batch.images))
        kept = unmixed_rows(batch.labels, of=len(logits)) if self._mixing else None
        if recipe.dsr_shape == NORM_VARIANCE:
            return Terms({"dsr": self._weight() * norm_variance(logits, kept)})
        present = self.get_buffer("updates").clamp(max=1.0)
        value = self._weight() * present * self._divergence(logits, kept)
        # A compiler sees that the loss has sorted the same logits already.
        return Terms({"dsr": value}, self._memory_of(logits, kept))

    def remember(self, memory: Mapping[str, Tensor], stored: Batch) -> None:
        """Takes over the shape of the batch that was just learned from."""
        recipe = self.setting.recipe
        if recipe.dsr_fade:
            self.get_buffer("steps").add_(1)
        if not memory:  # a penalty without a teacher
            return
        own, updates = self.get_buffer("ranked"), self.get_buffer("updates")
        shape, taught = memory["ranked"], memory.get("taught")
        if taught is not None:  # the share of the processes that had an unmixed picture
            shape = torch.where(taught > 0, shape / taught.clamp(min=1e-6), own)
        updates += 1 if taught is None else (taught > 0).float()
        if recipe.dsr_teacher == "ema":
            # The first updates average evenly, so the zeros at the start never weigh in.
            share = 1 / updates.clamp(min=1.0)
            own.lerp_(shape, torch.clamp(share, min=1 - recipe.dsr_momentum))
        else:
            own.copy_(shape)
        if "unmixed" in memory:
            self.get_buffer("unmixed").copy_(memory["unmixed"])

    def _compared(self, outputs: Outputs) -> Tensor:
        """The logits (N, K) of the output, or (heads · N, K) of the heads, their trunk detached."""
        if not self._heads:
            return outputs.logits
        pairs = self._heads.items()
        return torch.cat([head(outputs.features[stage].detach()) for stage, head in pairs])

    def _weight(self) -> Tensor:
        recipe, setting = self.setting.recipe, self.setting
        if not recipe.dsr_fade:
            return recipe.dsr_weight * setting.scale
        passed = self.get_buffer("steps") / (recipe.epochs * setting.steps_per_epoch)
        return recipe.dsr_weight * (passed / _FADE_IN).clamp(max=1) * (2 - 2 * passed).clamp(0, 1)

    def _divergence(self, logits: Tensor, kept: Tensor | None) -> Tensor:
        recipe, remembered = self.setting.recipe, self.get_buffer("ranked")
        if recipe.dsr_shape == "paper" and kept is None:
            return dsr_loss(logits, remembered, temperature=recipe.temperature)
        heat = {"temperature": recipe.temperature, "tau": recipe.dsr_tau}
        divergences = self._shape.divergences(remembered, self._shape.scores(logits), **heat)
        if kept is not None and self._by_row:
            kept = kept * self.get_buffer("unmixed")
        return mean_of_rows(divergences, kept)

    def _memory_of(self, logits: Tensor, kept: Tensor | None) -> dict[str, Tensor]:
        """What `remember` gets: the shapes of a batch (N, R), or their mean (1, R)."""
        if self.setting.recipe.dsr_shape == "paper":
            rows = ranked(logits)
        else:
            scores = self._shape.scores(logits.detach())
            rows = self._shape.remembered(scores, tau=self.setting.recipe.dsr_tau)
            rows = rows[:, self.get_buffer("order")] if self._shape.shuffled else rows
        if self._by_row:
            return {"ranked": rows} if kept is None else {"ranked": rows, "unmixed": kept}
        if kept is None:
            return {"ranked": rows.mean(dim=0, keepdim=True)}
        return {"ranked": mean_of_rows(rows, kept)[None], "taught": kept.amax()}
