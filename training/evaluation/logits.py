"""Logits of every image of a split.

`runtime.model.figures` turns logits into figures.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.model.card import InputSpec
from training.augmentation.augment import channel_statistics, normalise

_CHUNK_PIXELS = 1 << 20  # of a batch of evaluation: 1,024 images of 32 px, 20 of 224 px
# A CPU is faster where maps stay in its caches, and needs less memory: 128 images of 32 px.
_CPU_PIXELS, _CPU_FEWEST = 1 << 17, 20


def images_at_once(size: int) -> int:
    """How many images of `size` pixels make a batch of evaluation."""
    return max(1, _CHUNK_PIXELS // size**2)


def logits_of(
    student: nn.Module, images: NDArray[np.uint8], spec: InputSpec, *, device: torch.device
) -> NDArray[np.float32]:
    """Logits float32 (N, K) of all uint8 images (N, size, size, 3), in evaluation mode.

    The student's mode is restored afterwards.
    """
    mean, std = channel_statistics(spec, device)
    count = images_at_once(spec.size)
    if device.type == "cpu":
        count = min(count, max(_CPU_FEWEST, _CPU_PIXELS // spec.size**2))
    was_training = student.training
    student.eval()
    logits = []
    with torch.inference_mode():
        for first in range(0, len(images), count):
            # A copy, because torch warns about arrays that are read-only maps.
            chunk = torch.from_numpy(np.array(images[first : first + count]))
            logits.append(student(normalise(chunk.to(device), mean, std)).float().cpu())
    student.train(was_training)
    return torch.cat(logits).numpy()
