"""From the word after `--data` to a Dataset."""

from pathlib import Path

from runtime.errors import UserError
from training.data import digits
from training.data.dataset import Dataset
from training.data.geometry import check_image_size


def data_names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return ("digits",)


def load_dataset(
    data: str,
    *,
    image_size: int | None = None,
    data_root: Path | None = None,
    split_seed: int = 0,
    progress: bool = True,
) -> Dataset:
    """The data set of that name, or in that folder; UserError if there is none."""
    if data == "digits":
        size = check_image_size(digits.IMAGE_SIZE if image_size is None else image_size)
        return digits.load_digits(size, split_seed=split_seed)
    raise UserError(
        f"data {data!r} is neither a known data set ({', '.join(data_names())}) nor a folder"
    )
