"""From the word after `--data` to a Dataset: a published data set by its name, or a path."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from runtime.base.errors import UserError
from runtime.model.card import Fit
from training.config.cache_form import ARRAYS, jpeg_quality
from training.config.data_columns import Columns, columns_of
from training.config.options import CLASSES, Options
from training.config.recipe import Recipe
from training.data.arrays import is_array_folder, load_arrays
from training.data.cache import load_cached
from training.data.class_names import counted_classes
from training.data.dataset import (
    Dataset,
    Geometry,
    check_crop,
    check_image_size,
    fitted,
    photographs,
    whole_images,
)
from training.data.folders import FOLDERS
from training.data.forms import FORMS, Request, is_data, open_source
from training.data.known_sources import known_source
from training.data.loading_progress import report
from training.data.photo_sets import PHOTO_SETS, photo_set
from training.data.small_images import DIGITS, DIGITS_SIZE, cifar, fashion_mnist, load_digits
from training.data.source import Source

FOLDER_IMAGE_SIZE = 224


@dataclass(frozen=True)
class PublishedSet:
    """A data set that is known by its name.

    Attributes:
        find: gives its Source, from its name, the data root and the seed of the split.
        geometry: gives its Geometry, from the image size in pixels.
        image_size: the default, in pixels.
    """

    find: Callable[[str, Path | None, int], Source]
    geometry: Callable[[int], Geometry]
    image_size: int


# Means and standard deviations of the training images, as they are usually quoted.
_FASHION = partial(whole_images, mean=(0.2860,) * 3, std=(0.3530,) * 3)
_CIFAR10 = partial(whole_images, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
_CIFAR100 = partial(whole_images, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))

PUBLISHED: dict[str, PublishedSet] = {
    "fashion-mnist": PublishedSet(fashion_mnist, _FASHION, 28),
    "cifar10": PublishedSet(cifar, _CIFAR10, 32),
    "cifar100": PublishedSet(cifar, _CIFAR100, 32),
    **{
        name: PublishedSet(photo_set, photographs, photos.image_size)
        for name, photos in PHOTO_SETS.items()
    },
}


def data_names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return (DIGITS, *PUBLISHED)


def load_dataset(
    data: str,
    *,
    image_size: int | None = None,
    fit: Fit = "crop",
    crop: str = "auto",
    data_root: Path | None = None,
    split_seed: int = 0,
    progress: bool = True,
    classes: str = FOLDERS,
    columns: str = "",
    allow_leaks: bool = False,
    of_a_run: bool = False,
    refresh: bool = False,
    cache: str = ARRAYS,
) -> Dataset:
    """The data set of that name, or at that path. Decoding is done once; later calls map it.

    Args:
        data: a name of `data_names()`, or the path of a folder or file. `./digits` is a path.
        image_size: side of the input in pixels; None: the data set's default.
        fit: what becomes of a picture that is no square, as in the recipe.
        crop: of the recipe; one that cannot work on the stored images is refused before decoding.
        data_root: the folder that holds, or receives, the files of a published data set. Without it
            they are looked for in the cache, and downloaded to it.
        split_seed: draws the test split of data that have none.
        progress: whether to say what was taken for what, and how far decoding is.
        classes: which folders of a folder of images are its classes, as in `folder_source`.
        columns: which columns of a list or table hold what, as `--columns` says it.
        allow_leaks: whether groups may lie on both sides of the splits that a list states.
        of_a_run: whether `classes` and `columns` are those of a run, whose data may have another
            form by now. Then they are ignored where they mean nothing.
        refresh: whether to decode again what the cache holds.
        cache: how it keeps pictures, as `--cache` says it.

    Raises:
        UserError: if there is no such data set, or if its files cannot be used.
    """
    _check_words(data, data_root, cache)
    if classes not in CLASSES:
        raise UserError(f"classes {classes!r} is unknown; choose {' or '.join(CLASSES)}")
    if classes != FOLDERS and data in data_names():
        raise UserError(f"--classes is for folders of images; {data!r} is none, leave it out")
    if columns_of(columns) != Columns() and data in data_names():
        raise UserError(f"--columns is for lists and tables; {data!r} is none, leave it out")
    if progress and data in data_names() and Path(data).is_dir():
        report(f"{data} is the data set of that name; the folder here is ./{data}")
    if data == DIGITS:
        size = check_image_size(DIGITS_SIZE if image_size is None else image_size)
        return load_digits(size, split_seed=split_seed, fit=fit)
    if data in PUBLISHED:
        geometry = _geometry(data, image_size, fit)
        check_crop(crop, geometry)
        source = replace(PUBLISHED[data].find(data, data_root, split_seed), published=True)
        return load_cached(source, geometry, progress=progress, refresh=refresh, form=cache)
    request = Request(
        split_seed=split_seed,
        classes=classes,
        columns=columns_of(columns),
        progress=progress,
        allow_leaks=allow_leaks,
        of_a_run=of_a_run,
    )
    loaded = _load_path(data, image_size, fit, request, crop=crop, refresh=refresh, cache=cache)
    counts = np.bincount(loaded.test_labels, minlength=loaded.num_classes)
    untested = [loaded.class_names[label] for label in np.flatnonzero(counts == 0)]
    if untested:
        report(f"{loaded.name}: {counted_classes(untested)} without test images")
    if loaded.name.casefold() in data_names():
        # Results state the name, and would take the user's own images for the published ones.
        return replace(loaded, name=f"{loaded.name}-folder")
    return loaded


def load_stated(
    options: Options | Namespace, *, recipe: Recipe, progress: bool = True, refresh: bool = False
) -> Dataset:
    """The data set that the options of a training command state; the rest is as in `load_dataset`.

    Args:
        options: with the names that `add_shared_options` gives them.
        recipe: says how pictures become squares, and how these are cropped.
        progress: as in `load_dataset`.
        refresh: as in `load_dataset`.
    """
    return load_dataset(
        options.data,
        image_size=options.image_size,
        fit=recipe.fit,
        crop=recipe.crop,
        data_root=options.data_root,
        classes=options.classes,
        columns=options.columns,
        cache=options.cache,
        allow_leaks=options.allow_leaks,
        progress=progress,
        refresh=refresh,
    )


def check_crop_of(data: str, *, image_size: int | None, recipe: Recipe) -> None:
    """Checks what `load_dataset` does of image size, fit and crop, without a look at the pictures.

    Raises:
        UserError: if they do not fit together, or the size is out of range.
    """
    if data == DIGITS or (data not in PUBLISHED and is_array_folder(Path(data).expanduser())):
        check_image_size(DIGITS_SIZE if image_size is None else image_size)
        return  # they are stored as the input is
    check_crop(recipe.crop, _geometry(data, image_size, recipe.fit))


def _geometry(data: str, image_size: int | None, fit: Fit) -> Geometry:
    """Of a published set, or of pictures at a path."""
    published = PUBLISHED.get(data)
    usual = FOLDER_IMAGE_SIZE if published is None else published.image_size
    size = check_image_size(usual if image_size is None else image_size)
    return fitted((photographs if published is None else published.geometry)(size), fit)


def _load_path(
    data: str,
    image_size: int | None,
    fit: Fit,
    request: Request,
    *,
    crop: str,
    refresh: bool,
    cache: str,
) -> Dataset:
    try:
        root = Path(data).expanduser()
    except RuntimeError as error:
        raise UserError(f"data {data!r}: {error}; write the whole path") from error
    try:
        there = data and is_data(root)  # Path("") would be the current folder
    except OSError as error:
        raise UserError(f"data {data[:80]!r}: {error.strerror}; expected {FORMS}") from error
    if not there:
        raise UserError(
            f"data {data!r} is neither a known data set ({', '.join(data_names())}) nor {FORMS}"
        )
    if root.is_dir() and is_array_folder(root):
        if request.classes != FOLDERS or request.columns != Columns():
            raise UserError(f"--classes and --columns are for images in files; {root} holds arrays")
        if cache != ARRAYS:
            raise _no_pictures(cache, root)
        return load_arrays(
            root, image_size=image_size, fit=fit, progress=request.progress, refresh=refresh
        )
    geometry = _geometry("", image_size, fit)
    check_crop(crop, geometry)
    source = known_source(root, str(request), lambda: open_source(root, request), refresh=refresh)
    return load_cached(source, geometry, progress=request.progress, refresh=refresh, form=cache)


def _check_words(data: str, data_root: Path | None, cache: str) -> None:
    """Refuses what does not fit the data set of that name."""
    if data_root is not None and data not in PUBLISHED:
        raise UserError(
            f"a data root is for the files of {', '.join(PUBLISHED)}; "
            f"{data!r} is not one of them, leave it out"
        )
    jpeg_quality(cache)  # refuses an unknown form
    if cache != ARRAYS and data in data_names() and data not in PHOTO_SETS:
        raise _no_pictures(cache, data)


def _no_pictures(cache: str, data: str | Path) -> UserError:
    return UserError(
        f"--cache {cache} keeps the bytes of files of pictures; {data} holds arrays, leave it out"
    )
