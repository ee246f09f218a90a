"""How good a student is: logits of every image of a split, and figures of them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.model.card import InputSpec
from training.augmentation.augment import channel_statistics, normalise

ECE_BINS = 15
_CHUNK_PIXELS = 1 << 20  # of a batch of evaluation: 1,024 images of 32 px, 20 of 224 px


def images_at_once(size: int) -> int:
    """How many images (size, size, 3) make a batch of evaluation."""
    return max(1, _CHUNK_PIXELS // size**2)


def logits_of(
    student: nn.Module, images: NDArray[np.uint8], spec: InputSpec, *, device: torch.device
) -> NDArray[np.float32]:
    """Logits (N, K) of uint8 images (N, size, size, 3), all of them, in evaluation mode."""
    mean, std = channel_statistics(spec, device)
    count = images_at_once(spec.size)
    was_training = student.training
    student.eval()
    logits = []
    with torch.inference_mode():
        for first in range(0, len(images), count):
            # A copy: torch warns of arrays that are read-only maps.
            chunk = torch.from_numpy(np.array(images[first : first + count]))
            logits.append(student(normalise(chunk.to(device), mean, std)).float().cpu())
    student.train(was_training)
    return torch.cat(logits).numpy()


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K) divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponentials = np.exp(scaled)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def top_k(logits: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> float:
    """Share of rows whose label is among the k largest logits (N, K); ties count against the label.

    A row with a NaN has no largest ones: it is wrong, whatever k is.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    others = np.where(np.arange(logits.shape[1]) == labels[:, None], -np.inf, logits)
    ordered = ~np.isnan(logits).any(axis=1)
    return float(np.mean(ordered & ((others >= own).sum(axis=1) < k)))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = ECE_BINS
) -> float:
    """Mean gap between confidence and accuracy over `bins` equally wide bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    which = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def confusion_matrix(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (K, K): row is the true class, column the predicted one."""
    size = logits.shape[1]
    cells = np.bincount(labels * size + logits.argmax(axis=1), minlength=size * size)
    return cells.reshape(size, size)
