"""A folder of class folders: with `train/` and `test/` or `val/`, or one folder that is split here.

A class is named after its folder; its images may lie in folders below it. Hidden files are left
out. Files whose names do not end like an image's are left out, too, and a line tells their number.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.base.errors import UserError
from runtime.model.preprocess import SUFFIXES
from training.data.loading_progress import report
from training.data.source import Contents, Source, Split, source_of_files, split_of

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val")  # the first that there is
# Other words for the two splits. A pair of folders with such names is hardly a pair of classes.
_TRAIN_WORDS = {TRAIN_FOLDER, "training"}
_TEST_WORDS = {*TEST_FOLDERS, "testing", "valid", "validation", "dev", "eval", "evaluation"}
TEST_SHARE = 0.2
_EXPECTED = "expected a folder of class folders, or train/ with test/ or val/"


def folder_source(root: Path, *, split_seed: int) -> Source:
    """The images in `root`. Without a test folder, the seed draws 20 % of each class as test split.

    Raises:
        UserError: if the folder is not laid out as expected, or a class has no images.
    """
    train = root / TRAIN_FOLDER
    tests = [root / word for word in TEST_FOLDERS if (root / word).is_dir()]
    test = tests[0] if tests else None
    if train.is_dir() and test is not None:
        for other in tests[1:]:
            report(f"{other} is left out: {test.name}/ is what is tested on")
        contents = _two_folders(train, test)
    elif train.is_dir() and class_folders(root) == [train]:
        raise UserError(f"{root} has {TRAIN_FOLDER}/ but neither test/ nor val/; {_EXPECTED}")
    else:
        _refuse_other_words(root)
        contents = _one_folder(root, split_seed=split_seed)
    return source_of_files(name_of(root), root, contents)


def name_of(root: Path) -> str:
    """The folder's own name, made fit for a file name. Results state it, and never a whole path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-.") or "folder"


def class_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden, in order of their names."""
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, sorted.

    Raises:
        UserError: if there is no class folder, or one without images, or with a name that is not
            UTF-8.
    """
    classes = {entry.name: _image_files(entry) for entry in class_folders(folder)}
    if not classes:
        raise UserError(f"{folder} has no class folders; {_EXPECTED}")
    for name, (images, _) in classes.items():
        if not _is_utf8(name):
            raise UserError(
                f"{folder / name} is named in another encoding than UTF-8; rename the folder, "
                "its name is the class's"
            )
        if not images:
            raise UserError(
                f"{folder / name} has no images ({', '.join(SUFFIXES)}); add some or remove it"
            )
    ignored = sum(others for _, others in classes.values())
    if ignored:
        report(f"{folder}: {ignored} files ignored, they do not end in {', '.join(SUFFIXES)}")
    return {name: images for name, (images, _) in classes.items()}


def labelled(classes: Sequence[list[Path]]) -> Split:
    """The files of all classes, one class after the other; a label is the class's position."""
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes])
    return split_of([image for images in classes for image in images], labels)


def split_classes(
    classes: dict[str, list[Path]], num_test: Sequence[int], *, split_seed: int
) -> Contents:
    """Takes `num_test[n]` images of class n as test split.

    The draw depends on the seed and on the class alone: adding a class changes no other's split.
    """
    train, test = [], []
    for (name, images), count in zip(classes.items(), num_test, strict=True):
        order = np.random.default_rng((split_seed, *name.encode())).permutation(len(images))
        test.append([images[i] for i in sorted(order[:count])])
        train.append([images[i] for i in sorted(order[count:])])
    return Contents(tuple(classes), labelled(train), labelled(test))


def _refuse_other_words(root: Path) -> None:
    """Refuses folders such as `Train/` and `Test/`, which would become two classes."""
    names = [folder.name for folder in class_folders(root)]
    pair = [
        next((name for name in names if name.casefold() in words), None)
        for words in (_TRAIN_WORDS, _TEST_WORDS)
    ]
    if None not in pair:
        raise UserError(f"{root} has {pair[0]}/ and {pair[1]}/; rename them to train/ and test/")


def _two_folders(train: Path, test: Path) -> Contents:
    train_classes, test_classes = images_by_class(train), images_by_class(test)
    for name in train_classes.keys() ^ test_classes.keys():
        there, absent = (train, test) if name in train_classes else (test, train)
        raise UserError(f"class {name!r} is in {there} and not in {absent}; expected it in both")
    names = tuple(train_classes)
    return Contents(
        names,
        labelled([train_classes[name] for name in names]),
        labelled([test_classes[name] for name in names]),
    )


def _one_folder(root: Path, *, split_seed: int) -> Contents:
    classes = images_by_class(root)
    for name, images in classes.items():
        if len(images) == 1:
            raise UserError(
                f"{root / name} has one image; expected at least two, one to train and one to test"
            )
    num_test = [max(1, round(TEST_SHARE * len(images))) for images in classes.values()]
    return split_classes(classes, num_test, split_seed=split_seed)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise(error: OSError) -> None:
    """Without this, `os.walk` takes a folder that cannot be listed for an empty one."""
    raise error


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """The image files below `folder`, sorted, and how many other files there are."""
    images, others = [], 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                images.append(Path(parent, name))
            else:
                others += 1
    return sorted(images), others
