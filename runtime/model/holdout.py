"""Test images in the bundle: they verify an engine where neither torch nor the data set is."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BundleError
from runtime.model.card import HOLDOUT_FILE


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, S, S, 3), labels int64 (N,), the student's probabilities (N, K) by torch."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def read_holdout(bundle: Path) -> Labelled:
    """Reads `holdout.npz` of a bundle; BundleError if it is missing or damaged."""
    path = bundle / HOLDOUT_FILE
    try:
        file = io.BytesIO(path.read_bytes())
        zipfile.ZipFile(file).close()  # BadZipFile, where np.load would suspect a pickle
        with np.load(file, allow_pickle=False) as arrays:
            return Labelled(arrays["images"], arrays["labels"], arrays["probabilities"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path} cannot be read ({error}); export the run again with `python export/run.py`"
        ) from error
