"""How well duplicates are found: `python tests/benchmarks/duplicates.py DATA [--changed N]`.

It prints how many test images have an exact or a near duplicate among the training images, and the
seconds and the memory that the comparison takes. Then it changes some test images in the ways that
count as near duplicates, and prints the share of them for which the original is found.
"""

import argparse
import io
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import load_dataset
from training.data.data_report import report_on, write_pairs
from training.data.inspection import inspect_images
from training.quality.thumbnails import empty_thumbnails, fill_thumbnails
from training.quality.twins import TEST, TRAIN, fill_near, twins_without_near

Array = NDArray[np.uint8]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    side = image.width
    return image.resize((side // 2, side // 2)).resize((side, side))


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES = {
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 70": lambda image: jpeg(image, 70),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half the size": half,
    "half the size, JPEG 75": lambda image: jpeg(half(image), 75),
    "mirrored": mirrored,
    "mirrored, JPEG 50": lambda image: jpeg(mirrored(image), 50),
}


def recall(originals: Array, changed: Array) -> float:
    """The share of the changed images whose nearest near duplicate is their original."""
    images = np.concatenate([originals, changed])
    thumbnails = empty_thumbnails(len(images))
    for _ in fill_thumbnails(thumbnails, images):
        pass
    count = len(originals)
    splits = np.repeat(np.array([TRAIN, TEST]), count)
    twins = twins_without_near(splits, np.zeros(len(images), np.int64), np.arange(len(images)))
    for _ in fill_near(twins, thumbnails, np.zeros(len(images), bool)):
        pass
    return float((twins.near[count:, TRAIN] == np.arange(count)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--changed", type=int, default=1000, help="how many test images to change")
    parser.add_argument("--pairs", type=Path, help="write the pairs that were found")
    options = parser.parse_args()
    dataset = load_dataset(options.data)
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        start, worked = time.perf_counter(), time.process_time()
        inspection = inspect_images(dataset, progress=False)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = report_on(dataset, inspection).duplicates
    images = len(dataset.train_labels) + len(dataset.test_labels)
    print(
        f"{images:,} images compared in {seconds:.1f} s ({worked:.1f} s of a core), "
        f"peak memory {memory:.0f} MiB"
    )
    print(
        f"{len(dataset.test_labels):,} test images: {found.across_splits} with an exact duplicate "
        f"in train, {found.near_across_splits} with a near one; {found.across_classes} pictures in "
        "several classes"
    )
    if options.pairs:
        write_pairs(options.pairs, dataset, inspection)
    rows = np.random.default_rng(0).permutation(len(dataset.test_labels))[: options.changed]
    originals = np.asarray(dataset.test_images[np.sort(rows)])
    for name, change in CHANGES.items():
        changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in originals])
        print(f"{name:<24} {recall(originals, changed):.1%} found")


@contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    """A cache of its own, so that nothing that was found before is taken from it."""
    former = os.environ.get("SKD_EDGE_CACHE")
    os.environ["SKD_EDGE_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("SKD_EDGE_CACHE")
        if former is not None:
            os.environ["SKD_EDGE_CACHE"] = former


if __name__ == "__main__":
    main()
