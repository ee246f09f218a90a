"""How good probabilities are beyond accuracy, and a compact record of each test image."""

import base64

import numpy as np
from numpy.typing import NDArray

from runtime.model.figures import expected_calibration_error, log_softmax, softmax, top_k

_FLOATS = ("nll", "confidence", "confidence_uncalibrated")  # of a record, beside `right`
_RECORD_TYPE = "<f2"  # float16, little endian: 3 digits are enough for an interval


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0
) -> float:
    """The mean of -log of the label's probability, in nats, for logits (N, K)."""
    return float(_losses(logits, labels, temperature).mean())


def right_against_wrong(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """AUROC of the confidence as a test of whether the answer is right; 0.5 says nothing.

    The probability that a right answer has a higher confidence than a wrong one, ties counted half
    (the Mann-Whitney statistic; Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136). NaN where all
    answers are right, or all are wrong.

    Args:
        probabilities: (N, K).
        labels: int64 (N,).
    """
    right = probabilities.argmax(axis=1) == labels
    return auroc(probabilities.max(axis=1), right)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve of scores (N,), by ranks; NaN where a side is empty."""
    from scipy.stats import rankdata

    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return float("nan")
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - count * (count + 1) / 2) / (count * others)


def quality_figures(
    logits: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float
) -> dict[str, float | None]:
    """Accuracy and the quality of the probabilities, before and after calibration.

    `auroc` is of the calibrated probabilities, and None where it is not defined.
    """
    calibrated = softmax(logits, temperature=temperature)
    area = right_against_wrong(calibrated, labels)
    return {
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "ece": expected_calibration_error(calibrated, labels),
        "ece_uncalibrated": expected_calibration_error(softmax(logits), labels),
        "nll": negative_log_likelihood(logits, labels, temperature=temperature),
        "nll_uncalibrated": negative_log_likelihood(logits, labels),
        "auroc": None if np.isnan(area) else area,
    }


def image_record(
    logits: NDArray[np.float32], labels: NDArray[np.int64], *, temperature: float
) -> dict[str, str]:
    """What intervals over test images need, as base64: who is right, NLL and confidence.

    `right` holds a bit an image (numpy.packbits); `nll` and `confidence` a float16 each, of the
    calibrated probabilities, and `confidence_uncalibrated` one of those before calibration.
    `read_image_record` reads it.
    """
    probabilities = softmax(logits, temperature=temperature)
    right = probabilities.argmax(axis=1) == labels
    return {
        "right": base64.b64encode(np.packbits(right).tobytes()).decode(),
        "nll": _encoded(_losses(logits, labels, temperature)),
        "confidence": _encoded(probabilities.max(axis=1)),
        "confidence_uncalibrated": _encoded(softmax(logits).max(axis=1)),
    }


def read_image_record(record: dict[str, str]) -> dict[str, NDArray[np.float64]]:
    """The columns of a record that `image_record` made, each float64 (N,); `right` is 0 or 1.

    Records of older versions do not have `confidence_uncalibrated`.
    """
    columns = {
        name: np.frombuffer(base64.b64decode(record[name]), _RECORD_TYPE).astype(np.float64)
        for name in _FLOATS
        if name in record
    }
    bits = np.frombuffer(base64.b64decode(record["right"]), np.uint8)
    count = len(columns["nll"])
    return {"right": np.unpackbits(bits, count=count).astype(np.float64), **columns}


def _losses(
    logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float
) -> NDArray[np.float64]:
    log_probabilities = log_softmax(logits.astype(np.float64), temperature=temperature)
    return -log_probabilities[np.arange(len(labels)), labels]


def _encoded(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype(_RECORD_TYPE).tobytes()).decode()
