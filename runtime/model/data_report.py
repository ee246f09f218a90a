"""`data.json`: what the check of a data set found, in the folder of the run and in its bundle."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from runtime.base.errors import BundleError
from runtime.model.locate import DATA_REPORT


class ClassCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many images of a class are in each split.

    `validation` counts the user's own validation split. Images that a run holds out of train
    because there is none count as train.
    """

    name: str
    train: int
    validation: int
    test: int


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """How often pictures repeat each other.

    Attributes:
        across_splits: test images of which train or validation has an exact duplicate.
        near_across_splits: test images of which they have a near duplicate and no exact one.
        across_classes: pictures of which exact or near duplicates lie in several classes.
    """

    across_splits: int
    near_across_splits: int
    across_classes: int


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `data.json`.

    Attributes:
        data: the data set's name.
        classes: in the order of their labels.
        used: how many images the splits have together.
        left_out: how many files or images are not used, for each reason.
        duplicates: how often pictures repeat each other.
        warnings: sentences about what may spoil a training or its figures.
    """

    data: str
    classes: tuple[ClassCount, ...]
    used: int
    left_out: Mapping[str, int]
    duplicates: Duplicates
    warnings: tuple[str, ...]


def data_report_json(report: DataReport) -> bytes:
    """The content of the file."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read_data_report(folder: Path) -> DataReport | None:
    """The report in the folder of a run or of a bundle; None if there is none.

    Raises:
        BundleError: it cannot be read.
    """
    path = folder / DATA_REPORT
    try:
        return msgspec.json.decode(path.read_bytes(), type=DataReport)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(f"{path} cannot be read ({error}); export the run again") from error
