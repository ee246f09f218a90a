"""The one form that every data set takes, and which pixels of an image are in it."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.resources import usable_cores
from runtime.model.card import Fit, InputSpec
from runtime.model.preprocess import place_in_square
from training.data.loading_progress import track
from training.quality.exact_twins import Pictures

MIN_IMAGE_SIZE = 16
MAX_IMAGE_SIZE = 1024
# Up to this size, training pads images and crops them. Above it, it cuts random resized crops.
MAX_PADDED_CROP_SIZE = 64

Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

_BYTES_OF_A_THREAD = 16 << 20
_IMAGES_OF_DIGEST = 64  # of each split, evenly spaced: reading all of them would take minutes


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one data set, decoded, as arrays.

    Attributes:
        name: the data set's name, which is fit for a file name.
        class_names: one for each label.
        input: what evaluation, and every classifier, does to an image.
        train_images: uint8 (N, H, W, 3), possibly a read-only memory map, or `EncodedImages`. H and
            W are larger than `input.size` where training cuts random resized crops out of the
            images.
        train_labels: int64 (N,).
        test_images: uint8 (M, size, size, 3), exactly as `runtime.model.preprocess` makes them with
            `input`.
        test_labels: int64 (M,).
        validation_images: how many of the training images, the last ones, are the user's own
            validation split. They are not trained on. If it is 0, a run holds some images out.
        train_paths: where each training image lies, relative to the data, as text with "/"; bytes
            that are not UTF-8 are surrogates. Of arrays it is "train_images.npy#17" for row 17 of a
            file, and "train#17" or "#17" for a row of a published set. () of data made in memory.
        test_paths: the same of the test images.
        left_out: how many files or images of the data are not in it, for each reason. The words
            are those of `training.data.source`.
        train_groups: the group of each training image, int64 (N,). Images of one group are held out
            together, or not at all. None: there are no groups.
        train_sha256: SHA-256 of the bytes of each training image's file, or of its pixels where it
            is a row of an array, uint8 (N, 32). None: of an array, `row_digests` makes it.
        test_sha256: the same of the test images.
        train_pictures: of each training image the check value and the size of the picture that it
            was made of, (N,). None: the pictures are the images themselves.
        test_pictures: the same of the test images.
        jpeg_quality: of the JPEGs that the cache has made of the training images, which are not the
            pixels of their files; None: they are.
        warnings: sentences about what was found while the data were read, before their pictures.
    """

    name: str
    class_names: tuple[str, ...]
    input: InputSpec
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    validation_images: int = 0
    train_paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    train_groups: NDArray[np.int64] | None = None
    train_sha256: NDArray[np.uint8] | None = None
    test_sha256: NDArray[np.uint8] | None = None
    train_pictures: Pictures | None = None
    test_pictures: Pictures | None = None
    jpeg_quality: int | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.shape != (len(labels), *images.shape[1:3], 3):
                raise ValueError(f"{split} images are {images.dtype} {images.shape}")
            if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels):
                raise ValueError(f"{split} labels are {labels.dtype} {labels.shape}")
            if len(paths := getattr(self, f"{split}_paths")) not in (0, len(labels)):
                raise ValueError(f"{len(paths)} {split} paths for {len(labels)} images")
        size = self.input.size
        if self.test_images.shape[1:3] != (size, size):
            raise ValueError(f"test images are {self.test_images.shape}, the input size is {size}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def image_paths(self) -> list[str]:
        """The paths of all training images, then of all test images.

        Of data made in memory, "train#17" stands for row 17 of the training images.
        """
        train, test = (
            paths or tuple(f"{word}#{row}" for row in range(len(labels)))
            for word, paths, labels in (
                ("train", self.train_paths, self.train_labels),
                ("test", self.test_paths, self.test_labels),
            )
        )
        return [*train, *test]

    def content_digest(self, *, show: bool = False) -> str:
        """Hex SHA-256 of the class names, all labels and all images, wherever the data lies.

        Args:
            show: whether to show how far it is, where the images have to be read for it.
        """
        content = hashlib.sha256("\0".join(self.class_names).encode())
        for images, digests, labels in (
            (self.train_images, self.train_sha256, self.train_labels),
            (self.test_images, self.test_sha256, self.test_labels),
        ):
            content.update(f"\0{len(labels)}\0".encode())
            content.update(labels.tobytes())
            content.update(
                (row_digests(images, show=show) if digests is None else digests).tobytes()
            )
        content.update(f"validation {self.validation_images}".encode())
        if self.train_groups is not None:
            content.update(b"groups" + self.train_groups.tobytes())
        if self.jpeg_quality is not None:
            content.update(f"jpeg {self.jpeg_quality}".encode())
        return content.hexdigest()

    def digest(self) -> str:
        """Hex SHA-256 of the class names, all labels and some images, wherever the data lies.

        Runs made before `content_digest` existed state this one.
        """
        content = hashlib.sha256("\0".join(self.class_names).encode())
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            content.update(labels.tobytes())
            rows = np.linspace(0, len(labels) - 1, min(len(labels), _IMAGES_OF_DIGEST)).astype(int)
            content.update(np.ascontiguousarray(images[rows]).tobytes())
        if self.validation_images:
            content.update(f"validation {self.validation_images}".encode())
        return content.hexdigest()


def row_digests(images: NDArray[np.uint8], *, show: bool = False) -> NDArray[np.uint8]:
    """SHA-256 of the bytes of each image: uint8 (N, 32) of uint8 images (N, H, W, 3).

    Args:
        images: possibly a memory map that is larger than the memory.
        show: whether to show how far it is.
    """
    if images.nbytes <= _BYTES_OF_A_THREAD:
        digests = b"".join(hashlib.sha256(image.tobytes()).digest() for image in images)
        return np.frombuffer(digests, np.uint8).reshape(len(images), -1)
    step = max(1, _BYTES_OF_A_THREAD // images[0].nbytes)
    parts = [images[first : first + step] for first in range(0, len(images), step)]
    found: list[NDArray[np.uint8]] = []

    def steps() -> Iterator[int]:
        with ThreadPoolExecutor(usable_cores()) as pool:  # hashlib works outside Python's lock
            for part in pool.map(row_digests, parts):
                found.append(part)
                yield len(part)

    for _ in track(steps(), total=len(images), what="reading every image", show=show):
        pass
    return np.concatenate(found)


@dataclass(frozen=True)
class Geometry:
    """Which pixels are kept: `input` of an image that is evaluated, `stored` of a training image.

    `input` is also what every classifier does to an image.
    """

    input: InputSpec
    stored: InputSpec


def fitted(geometry: Geometry, fit: Fit) -> Geometry:
    """The geometry with another way to make squares of pictures; "crop" leaves it as it is.

    Where the whole picture is seen, evaluation cuts no margin off, and a training image is stored
    as evaluation sees it.
    """
    if fit == "crop":
        return geometry
    size = geometry.input.size
    spec = msgspec.structs.replace(geometry.input, fit=fit, resize=size, crop=size)
    return Geometry(input=spec, stored=spec)


def check_crop(crop: str, geometry: Geometry) -> None:
    """Checks that the recipe's `crop` can make the input of the images that are stored.

    Raises:
        UserError: if they have a margin around the input, which only "resized" cuts off.
    """
    size, stored = geometry.input.size, geometry.stored.size
    if crop in ("none", "pad") and stored != size:
        raise UserError(
            f"crop {crop!r} needs images of {size} px, and those of fit {geometry.input.fit!r} are "
            f"kept with a margin, {stored} px; use crop 'resized' or 'auto', fit 'letterbox' or "
            f"'stretch', or at most {MAX_PADDED_CROP_SIZE} px (--image-size)"
        )


def places_of(pictures: Pictures, spec: InputSpec) -> NDArray[np.int64]:
    """What each picture fills of its prepared image, int64 (N, 4): left, top, right, bottom.

    It is all of the image but where bars make a letterboxed picture a square.
    """
    sizes = zip(pictures["width"].tolist(), pictures["height"].tolist(), strict=True)
    places = [place_in_square((w, h), spec) if w and h else (0, 0, 1, 1) for w, h in sizes]
    return np.array(places, dtype=np.int64).reshape(-1, 4)


def check_image_size(size: int) -> int:
    """Returns `size`, in pixels.

    Raises:
        UserError: if it is not from 16 to 1024.
    """
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"image size {size} is out of range; choose {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}"
        )
    return size


def whole_images(size: int, *, mean: Channels, std: Channels) -> Geometry:
    """Images of one fixed size (digits, CIFAR), which training and evaluation use whole."""
    spec = InputSpec(size=size, resize=size, crop=size, mean=mean, std=std)
    return Geometry(input=spec, stored=spec)


def photographs(
    size: int, *, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD
) -> Geometry:
    """Photographs of any size; above 64 px with the margin that is usual for ImageNet.

    Evaluation brings the short side to 8/7 of `size` (256 for 224) and cuts out the centre.
    Training images are stored as the square at the centre, with that short side: all images of an
    array have one shape, and a random resized crop sees them at the pixel density of evaluation.
    12,000 images for 224 px take 2.4 GB. What lies outside the square is not trained on.
    """
    if size <= MAX_PADDED_CROP_SIZE:
        return whole_images(size, mean=mean, std=std)
    resize = round(size * 8 / 7)
    return Geometry(
        input=InputSpec(size=size, resize=resize, crop=size, mean=mean, std=std),
        stored=InputSpec(size=resize, resize=resize, crop=resize, mean=mean, std=std),
    )
