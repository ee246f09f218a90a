"""The test images of a bundle. They verify an engine where there is no torch and no data set."""

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
    """Test images of which the right answers are known.

    Attributes:
        images: uint8 RGB (N, size, size, 3).
        labels: int64 (N,).
        probabilities: what the trained student gives for them in torch, float32 (N, num_classes).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def read_holdout(bundle: Path) -> Labelled:
    """Reads `holdout.npz` of the folder `bundle`.

    Raises:
        BundleError: the file is missing or damaged.
    """
    path = bundle / HOLDOUT_FILE
    try:
        file = io.BytesIO(path.read_bytes())
        zipfile.ZipFile(file).close()  # a file that is no zip: np.load would call it a pickle
        with np.load(file, allow_pickle=False) as arrays:
            return Labelled(arrays["images"], arrays["labels"], arrays["probabilities"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path} cannot be read ({error}); export the run again with `python export/run.py`"
        ) from error
