"""From the word after `--data` to a Dataset."""

from pathlib import Path

from runtime.base.errors import UserError
from training.data import arrays, digits, folders, known
from training.data.cache import load_cached
from training.data.dataset import Dataset
from training.data.geometry import check_image_size, photographs

FOLDER_IMAGE_SIZE = 224


def data_names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return (digits.NAME, *known.PUBLISHED)


def load_dataset(
    data: str,
    *,
    image_size: int | None = None,
    data_root: Path | None = None,
    split_seed: int = 0,
    progress: bool = True,
) -> Dataset:
    """The data set of that name, or in that folder, at `image_size` pixels (None: its default).

    `data_root` holds (or receives) the files of a published data set; without it they are looked
    for, and downloaded to, the cache. `split_seed` draws the test split of data that have none.
    `progress` shows how far decoding is; it is done once, and a later call maps the result.
    """
    if data_root is not None and data not in known.PUBLISHED:
        raise UserError(
            f"a data root is for the files of {', '.join(known.PUBLISHED)}; "
            f"{data!r} is not one of them, leave it out"
        )
    if data == digits.NAME:
        size = check_image_size(digits.IMAGE_SIZE if image_size is None else image_size)
        return digits.load_digits(size, split_seed=split_seed)
    if data in known.PUBLISHED:
        published = known.PUBLISHED[data]
        size = check_image_size(published.image_size if image_size is None else image_size)
        source = published.find(data, data_root, split_seed)
        return load_cached(source, published.geometry(size), progress=progress)
    return _load_folder(data, image_size, split_seed=split_seed, progress=progress)


def _load_folder(data: str, image_size: int | None, *, split_seed: int, progress: bool) -> Dataset:
    try:
        root = Path(data).expanduser()
    except RuntimeError as error:
        raise UserError(f"data {data!r}: {error}; write the folder's whole path") from error
    if not data or not root.is_dir():  # Path("") would be the current folder
        raise UserError(
            f"data {data!r} is neither a known data set ({', '.join(data_names())}) nor a folder"
        )
    if arrays.is_array_folder(root):
        return arrays.load_arrays(root, image_size=image_size, progress=progress)
    size = check_image_size(FOLDER_IMAGE_SIZE if image_size is None else image_size)
    source = folders.folder_source(root, split_seed=split_seed)
    return load_cached(source, photographs(size), progress=progress)
