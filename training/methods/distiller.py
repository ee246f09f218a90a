"""The training-time wrapper: a student, its tap and its auxiliary head."""

from typing import NamedTuple

from torch import Tensor, nn

from training.methods.heads import AuxiliaryHead
from training.networks.students import channels_at


class Outputs(NamedTuple):
    """Logits (N, K) of both classifiers; `auxiliary_logits` is None without an auxiliary head."""

    logits: Tensor
    auxiliary_logits: Tensor | None


class SelfDistiller(nn.Module):
    """Runs a student and, if there is one, the auxiliary head on the feature map it is tapped at.

    The student itself is untouched: `distiller.student(images)` gives the logits that the wrapper
    gives, and its state dict holds nothing of the head.
    """

    def __init__(self, student: nn.Module, auxiliary: AuxiliaryHead | None, *, tap: str) -> None:
        super().__init__()
        self.student = student
        self.auxiliary = auxiliary
        self._tapped: Tensor | None = None
        if auxiliary is not None:
            student.get_submodule(tap).register_forward_hook(self._keep_tapped)

    def _keep_tapped(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._tapped = output

    def forward(self, images: Tensor) -> Outputs:
        """Both logits of normalised images (N, 3, S, S)."""
        logits = self.student(images)
        if self.auxiliary is None:
            return Outputs(logits, None)
        tapped, self._tapped = self._tapped, None  # holds no graph between steps
        return Outputs(logits, self.auxiliary(tapped))


def build_distiller(
    student: nn.Module,
    *,
    tap: str,
    num_classes: int,
    image_size: int,
    auxiliary: bool,
    head_width: float = 1.0,
) -> SelfDistiller:
    """Wraps `student`; with `auxiliary`, a head sized by the stage named `tap` is added."""
    if not auxiliary:
        return SelfDistiller(student, None, tap=tap)
    channels = channels_at(student, tap, image_size)
    head = AuxiliaryHead(channels, num_classes, width=head_width)
    return SelfDistiller(student, head, tap=tap)
