"""A folder of class folders whose classes are a model's: new labelled data to evaluate it with."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from runtime.images.image_folders import (
    NOT_AN_IMAGE,
    READ_ALREADY,
    ImageFolders,
    in_words,
)

BESIDE_CLASSES = "beside the class folders"

_Classes = dict[int, list[Path]]  # the images of each class


@dataclass(frozen=True)
class LabelledFolder:
    """Images and their labels.

    Attributes:
        images: their files, class by class, in the order of their paths.
        labels: int64 (N,).
        paths: where each lies below the folder, with "/".
        left_out: how many files and folders are not used, for each reason.
    """

    images: list[Path]
    labels: NDArray[np.int64]
    paths: list[str]
    left_out: dict[str, int]


def read_labelled_folder(
    root: Path, class_names: Sequence[str], say: Callable[[str], None]
) -> LabelledFolder:
    """The images in `root`, each in a folder that is named after its class, or below one.

    Class folders may lie deeper, as in `animals/cat`.

    Args:
        root: the folder.
        class_names: of the model. Names that differ only in their Unicode form are one.
        say: gets a line for what was taken for what, and for what is left out.

    Raises:
        UserError: if `root` is no folder, holds folders that are no classes, or holds no image.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected one with a folder for each class")
    reader = ImageFolders(root)
    search = _Search(root, reader, class_names)
    found = search.classes_in(root)
    if not found:
        raise UserError(search.complaint())
    images = [image for label in sorted(found) for image in found[label]]
    if not images:
        raise UserError(f"{root} holds no images in its class folders; expected at least one")
    left_out = {**reader.left_out, BESIDE_CLASSES: len(search.beside)}
    if words := in_words(left_out):
        say(f"{root}: left out: {words}")
    if search.beside:
        named = [image.relative_to(root).as_posix() for image in sorted(search.beside)]
        say(f"{root}: {BESIDE_CLASSES}: {some(named)}")
    without = [name for label, name in enumerate(class_names) if not found.get(label)]
    if without:
        say(f"{root}: no images of {some(without)}")
    labels = np.repeat(sorted(found), [len(found[label]) for label in sorted(found)])
    return LabelledFolder(
        images,
        labels.astype(np.int64),
        [image.relative_to(root).as_posix() for image in images],
        {reason: count for reason, count in left_out.items() if count},
    )


class _Search:
    """Looks for the class folders below a root.

    Attributes:
        beside: the images that lie in no class folder, in all folders that were searched.
    """

    def __init__(self, root: Path, reader: ImageFolders, class_names: Sequence[str]) -> None:
        self._root = root
        self._reader = reader
        self._names = class_names
        self.beside: list[Path] = []
        self._labels = {composed(name): label for label, name in enumerate(class_names)}

    def classes_in(self, folder: Path) -> _Classes:
        """The images of the classes whose folders lie in `folder`, or deeper.

        Raises:
            UserError: if folders are no classes and hold none, or a class is in two of them.
        """
        listing = self._reader.listing(folder)
        self.beside += listing.images
        self._reader.left_out[NOT_AN_IMAGE] += listing.others.total()
        below = [path for path in listing.folders if not self._leads_back(path)]
        self._reader.left_out[READ_ALREADY] += len(listing.folders) - len(below)
        known = {path: label for path in below if (label := self._label(path)) is not None}
        others = [path for path in below if path not in known]
        if len({*known.values()}) < len(known):
            raise UserError(f"{folder} has two folders of one class; move the images into one")
        found: _Classes = {}
        for path, label in known.items():
            found |= self._images_below(path, label)
        deeper = {
            path: self.classes_in(path) for path in others if self._reader.listing(path).folders
        }
        strange = [path for path in others if not deeper.get(path)]
        if strange and (known or any(deeper.values())):
            raise UserError(
                f"{folder} has the folders {some([path.name for path in strange])}, which are no "
                f"classes of the model ({some(self._names)}); move them away, or rename them"
            )
        for path, classes in deeper.items():
            if both := [label for label in classes if label in found]:
                raise UserError(
                    f"{folder} has the class {self._names[both[0]]!r} more than once, also in "
                    f"{path.name}/; name the one folder to evaluate, such as {path}"
                )
            found |= classes
        return found

    def _images_below(self, folder: Path, label: int) -> _Classes:
        """The images below the folder of the class `label`.

        A folder below it may be a class, too, which its whole path names.

        Raises:
            UserError: if a folder below it has the name of another class.
        """
        found: _Classes = {label: []}
        for inner, images in sorted(self._reader.images_below(folder)):
            if images:
                found.setdefault(self._innermost(inner, folder, label), []).extend(images)
        return {label: sorted(images) for label, images in found.items()}

    def _innermost(self, inner: Path, folder: Path, label: int) -> int:
        """The class of the images in `inner`, which is `folder`, of the class `label`, or below."""
        while inner != folder:
            other = self._labels.get(self._path_of(inner))
            if other is not None:
                return other
            if self._label(inner) not in (None, label):
                raise UserError(
                    f"{inner} is called like a class of the model, and lies in the folder of the "
                    f"class {self._names[label]!r}; move it beside {folder}, or rename it"
                )
            inner = inner.parent
        return label

    def complaint(self) -> str:
        """Why no class was found."""
        folders = [path.name for path in self._reader.listing(self._root).folders]
        held = f"the folders {some(folders)}" if folders else "no folders"
        return (
            f"{self._root} has {held}; expected one for each class of the model: "
            f"{some(self._names)}"
        )

    def _label(self, folder: Path) -> int | None:
        """By the folder's name, or by its path, which names a class where two have one name."""
        path = self._path_of(folder)
        return self._labels.get(path, self._labels.get(path.rpartition("/")[2]))

    def _path_of(self, folder: Path) -> str:
        return composed(folder.relative_to(self._root).as_posix())

    @staticmethod
    def _leads_back(folder: Path) -> bool:
        """Whether it is a link to a folder above it, which would be searched without end."""
        here = folder.parent.resolve()
        return folder.resolve() in (here, *here.parents)


def composed(name: str) -> str:
    """The name in the Unicode form NFC, in which names of classes are compared."""
    return unicodedata.normalize("NFC", name)
