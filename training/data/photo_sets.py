"""Published data sets of photographs, each in its publisher's own layout and split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from training.data.class_lists import labelled, split_classes
from training.data.fetch import Archive, Published, download_archives, obtain
from training.data.folders import images_by_class
from training.data.source import Contents, Source, source_of_files, split_of, unique_names

CALTECH_TRAIN_IMAGES = 30  # a class
CALTECH_LEFT_OUT = "BACKGROUND_Google"
IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True)
class PhotoSet:
    """How a data set of photographs is published and read.

    Attributes:
        published: where its files are.
        read: gives its contents, from their folder and the seed of the split.
        image_size: the default, in pixels.
    """

    published: Published
    read: Callable[[Path, int], Contents]
    image_size: int = 224


def read_tiny_imagenet(root: Path, split_seed: int) -> Contents:
    """200 classes. The test images have no labels, so the validation images are the test split.

    A class is known by its WordNet number. Its name is the first synonym in `words.txt`.
    """
    numbers = sorted(row[0] for row in _rows(root / "wnids.txt"))
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt"))
    names = [words[number].split(",")[0].strip() for number in numbers]
    train = [sorted((root / "train" / number / "images").glob("*.JPEG")) for number in numbers]
    positions = {number: position for position, number in enumerate(numbers)}
    rows = [line.split("\t") for line in _lines(root / "val" / "val_annotations.txt")]
    test = split_of(
        [root / "val" / "images" / row[0] for row in rows], [positions[row[1]] for row in rows]
    )
    return Contents(unique_names(names, numbers), labelled(train), test)


def read_stanford_dogs(root: Path, split_seed: int) -> Contents:
    """120 breeds in the official split of `train_list.mat` and `test_list.mat`."""
    train, test = (_read_dog_list(root, word) for word in ("train", "test"))
    breeds = {label: file.split("/")[0] for file, label in train}
    names = [breeds[label].split("-", 1)[1].replace("_", " ") for label in sorted(breeds)]
    positions = {label: position for position, label in enumerate(sorted(breeds))}
    splits = [
        split_of(
            [root / "Images" / file for file, _ in rows], [positions[label] for _, label in rows]
        )
        for rows in (train, test)
    ]
    return Contents(unique_names(names, [breeds[label] for label in sorted(breeds)]), *splits)


def read_cub200(root: Path, split_seed: int) -> Contents:
    """200 bird species in the official split of `train_test_split.txt`."""
    classes = dict(_rows(root / "classes.txt"))
    label_of = dict(_rows(root / "image_class_labels.txt"))
    is_training = dict(_rows(root / "train_test_split.txt"))
    positions = {number: position for position, number in enumerate(classes)}
    images = _rows(root / "images.txt")
    splits = [
        split_of(
            [root / "images" / file for number, file in images if is_training[number] == flag],
            [positions[label_of[number]] for number, _ in images if is_training[number] == flag],
        )
        for flag in ("1", "0")
    ]
    names = [folder.split(".", 1)[1].replace("_", " ") for folder in classes.values()]
    return Contents(tuple(names), *splits)


def read_caltech101(root: Path, split_seed: int) -> Contents:
    """101 categories, without a published split.

    As is usual for this data set, 30 training images of each category are drawn (by the split
    seed), and all others are for testing. The background category is left out.
    """
    classes = images_by_class(root / "101_ObjectCategories")
    classes.pop(CALTECH_LEFT_OUT, None)
    for name, images in classes.items():
        if len(images) <= CALTECH_TRAIN_IMAGES:
            raise UserError(
                f"{root}: {name} has {len(images)} images, expected more than "
                f"{CALTECH_TRAIN_IMAGES}; the copy is incomplete"
            )
    num_test = [len(images) - CALTECH_TRAIN_IMAGES for images in classes.values()]
    return split_classes(classes, num_test, split_seed=split_seed)


def read_imagenette(root: Path, split_seed: int) -> Contents:
    """Ten easy classes of ImageNet; `val/` is the test split."""
    train, test = images_by_class(root / "train"), images_by_class(root / "val")
    names = tuple(IMAGENETTE_CLASSES[number] for number in train)
    return Contents(
        names, labelled(list(train.values())), labelled([test[number] for number in train])
    )


def photo_set(name: str, data_root: Path | None, split_seed: int) -> Source:
    """The source of the data set of that name.

    Raises:
        UserError: if it is not found, or not laid out as it is published.
    """
    photos = PHOTO_SETS[name]
    root = obtain(name, photos.published, data_root)
    try:
        contents = photos.read(root, split_seed)
    except UserError:
        raise
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{root} is not laid out as {name} is published ({error!r}); "
            f"unpack it again from {photos.published.url}"
        ) from error
    return source_of_files(name, root, contents)


def _read_dog_list(root: Path, word: str) -> list[tuple[str, int]]:
    """The rows of the publisher's MATLAB list: the file below Images/, and its label from 1."""
    from scipy.io import loadmat

    columns = loadmat(_dog_list(root, word), squeeze_me=True)
    files, labels = columns["file_list"], columns["labels"]
    return [(str(file), int(label)) for file, label in zip(files, labels, strict=True)]


def _dog_list(root: Path, word: str) -> Path:
    """The list's file: `lists.tar` is unpacked beside Images/ or, by some people, into lists/."""
    beside = root / f"{word}_list.mat"
    return beside if beside.exists() else root / "lists" / f"{word}_list.mat"


def _rows(file: Path) -> list[list[str]]:
    return [line.split() for line in _lines(file)]


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _has(*paths: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / path).exists() for path in paths)


def _torchvision_download(class_name: str, **options: str) -> Callable[[Path], None]:
    def download(folder: Path) -> None:
        from torchvision import datasets  # takes seconds to import

        getattr(datasets, class_name)(folder, download=True, **options)

    return download


_DOGS_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

PHOTO_SETS: dict[str, PhotoSet] = {
    "tiny-imagenet": PhotoSet(
        Published(
            url=_TINY_URL,
            folders=("tiny-imagenet-200",),
            is_complete=_has("wnids.txt", "words.txt", "train", "val/val_annotations.txt"),
            download=download_archives(Archive(_TINY_URL, "90528d7ca1a48142e341f4ef8d21d0de")),
        ),
        read_tiny_imagenet,
        image_size=64,
    ),
    "caltech101": PhotoSet(
        Published(
            url="https://data.caltech.edu/records/mzrjq-6wc02",
            folders=("caltech101", "caltech-101"),
            is_complete=_has("101_ObjectCategories"),
            download=_torchvision_download("Caltech101"),
        ),
        read_caltech101,
    ),
    "stanford-dogs": PhotoSet(
        Published(
            url=f"{_DOGS_URL}/",
            folders=("stanford-dogs",),
            is_complete=lambda root: all(
                path.exists()
                for path in (root / "Images", _dog_list(root, "train"), _dog_list(root, "test"))
            ),
            download=download_archives(
                Archive(
                    f"{_DOGS_URL}/images.tar", "1bb1f2a596ae7057f99d7d75860002ef", "stanford-dogs"
                ),
                Archive(
                    f"{_DOGS_URL}/lists.tar", "edbb9f16854ec66506b5f09b583e0656", "stanford-dogs"
                ),
            ),
        ),
        read_stanford_dogs,
    ),
    "cub200": PhotoSet(
        Published(
            url=_CUB_URL,
            folders=("CUB_200_2011",),
            is_complete=_has(
                "images",
                "images.txt",
                "classes.txt",
                "image_class_labels.txt",
                "train_test_split.txt",
            ),
            download=download_archives(Archive(_CUB_URL, "97eceeb196236b17998738112f37df78")),
        ),
        read_cub200,
    ),
    "imagenette": PhotoSet(
        Published(
            url="https://github.com/fastai/imagenette",
            folders=("imagenette2-320", "imagenette2", "imagenette2-160"),
            is_complete=lambda root: all(
                (root / split / number).is_dir()
                for split in ("train", "val")
                for number in IMAGENETTE_CLASSES
            ),
            download=_torchvision_download("Imagenette", size="320px"),
        ),
        read_imagenette,
    ),
}
