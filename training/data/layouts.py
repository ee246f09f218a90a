"""Which folders below a root are trained on, chosen by and tested on, as people lay them out.

A root's folders are its splits if they are called so (`split_words`), and its classes otherwise. A
root that holds nothing but one folder of folders is stepped over: that folder is the root.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.base.errors import UserError
from training.data.class_lists import counted_images
from training.data.class_names import composed
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.source import NO_SPLIT, UNLABELLED
from training.data.split_words import Role, holds_no_class, is_plain, role_of

TEST_SHARE = 0.2
EXPECTED = "expected a folder of class folders, or train/ with test/ or val/"


@dataclass(frozen=True)
class Layout:
    """Folders of class folders.

    Attributes:
        train: trained on. Without `test` it is split here.
        validation: calibrated with and chosen by, if there is one.
        test: tested on, if there is one.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None


@dataclass
class _Splits:
    """Folders by what they are for. Those in `others` have a name that says nothing of it."""

    of: dict[Role, list[Path]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))


def find_layout(root: Path, reader: FolderReader, say: Callable[[str], None]) -> Layout:
    """The layout of the data in `root`. Reports folders that are left out.

    Args:
        root: the folder.
        reader: of the root.
        say: gets a line about what was taken for what.

    Raises:
        UserError: if folders are splits, but not a training split with a labelled one to test on.
    """
    start = root
    while True:
        folders = reader.listing(root).folders
        splits = _splits_among(folders, reader)
        only = folders[0] if len(folders) == 1 and _holds_folders(folders[0], reader) else None
        if only is not None and not (len(splits) == 1 and _is_a_split_alone(only, reader)):
            root = only
            continue
        if root != start:
            say(f"{start} holds nothing but {root.relative_to(start)}/, which is read instead")
        if len(splits) == 0:
            say(f"{root}: class folders; {TEST_SHARE:.0%} of each class are drawn for testing")
            return Layout(root)
        layout = _layout_of(root, splits, reader)
        say(f"{root}: {_in_words(root, layout)}")
        return layout


def _holds_folders(folder: Path, reader: FolderReader) -> bool:
    """Whether the folder holds folders and no images, so that it is no class itself."""
    here = folder.parent.resolve()
    if folder.resolve() in (here, *here.parents):
        return False  # a link that leads back
    listing = reader.listing(folder)
    return bool(listing.folders) and not listing.images


def _is_a_split_alone(folder: Path, reader: FolderReader) -> bool:
    """Whether a root's only folder is a split of class folders, such as `train/`.

    `training_data/` is none: it may as well hold all the data.
    """
    return is_plain(folder.name) and not _splits_among(reader.listing(folder).folders, reader)


def _splits_among(folders: Sequence[Path], reader: FolderReader) -> _Splits:
    """The folders that are splits; none if the folders are classes.

    All names are those of splits, or two are plainly, or folders with names of splits share the
    names of their own folders with others.
    """
    found = _Splits()
    for folder in folders:
        role = role_of(folder.name)
        if role is None:
            found.others.append(folder)
        else:
            found.of.setdefault(role, []).append(folder)
    if not found.of or not found.others:
        return found
    roles = found.of.keys() - {Role.UNLABELLED}
    plain = {role for role in roles if any(is_plain(folder.name) for folder in found.of[role])}
    if Role.TRAIN in plain and len(plain) > 1:
        return found
    named = [folder for role in roles for folder in found.of[role]]
    if len(roles) > 1 and all(_share_folders(named[0], other, reader) for other in named[1:]):
        return found
    alone, role = len(found.others) == 1 and len(roles) == 1, next(iter(roles), None)
    if alone and role and all(_share_folders(found.others[0], split, reader) for split in named):
        # `train/` and another one, or another one and `test/`.
        found.of[Role.TEST if role is Role.TRAIN else Role.TRAIN] = found.others
        found.others = []
        return found
    return _Splits()


def _share_folders(first: Path, second: Path, reader: FolderReader) -> bool:
    """Whether at least half of the folders' own folders have a name in common."""
    names = [
        {composed(below.name).casefold().strip() for below in reader.listing(folder).folders}
        for folder in (first, second)
    ]
    common = names[0] & names[1]
    return bool(common) and 2 * len(common) >= min(map(len, names))


def _layout_of(root: Path, splits: _Splits, reader: FolderReader) -> Layout:
    """Which of the splits are used. Reports those that are not.

    Raises:
        UserError: if there is none to train on, or none with class folders to test on.
    """
    given: dict[Role, Path] = {
        role: _the_one(folders, reader, role)
        for role, folders in splits.of.items()
        if role is not Role.UNLABELLED
    }
    if Role.TRAIN not in given:
        names = ", ".join(f"{folder.name}/" for folder in given.values()) or "unlabelled images"
        raise UserError(
            f"{root} has {names} but no folder to train on; {EXPECTED}. If these are classes, "
            "give their folders other names"
        )
    train = _class_parent(given[Role.TRAIN], reader, is_class=lambda name: False)
    if not reader.listing(train).folders:
        raise UserError(f"{train} has no class folders; {EXPECTED}")
    for folder in splits.of.get(Role.UNLABELLED, []):
        _leave_out(folder, reader, UNLABELLED, "its name says that its images have no labels")
    for folder in splits.others:
        why = f"it is no split, and it lies beside {given[Role.TRAIN]}"
        _leave_out(folder, reader, NO_SPLIT, why)
    labelled = _labelled(given, train, reader)
    layout = Layout(
        train,
        labelled.get(Role.VALIDATION) if Role.TEST in labelled else None,
        labelled.get(Role.TEST, labelled.get(Role.VALIDATION)),
    )
    if layout.test is None:
        raise UserError(
            f"{root} has {given[Role.TRAIN].name}/ but neither test/ nor val/ with class folders; "
            f"{EXPECTED}, or --data {train}, which is then split {1 - TEST_SHARE:.0%} to "
            f"{TEST_SHARE:.0%}"
        )
    return layout


def _leave_out(folder: Path, reader: FolderReader, reason: str, why: str) -> None:
    """Counts the images in a folder that is left out, and says why it is."""
    count = reader.count_below(folder)
    reader.left_out[reason] += count
    report(f"{folder} is left out: {why} ({counted_images(count)})")


def _in_words(root: Path, layout: Layout) -> str:
    parts = [
        f"{folder.relative_to(root)}/ is {words}"
        for folder, words in (
            (layout.train, "trained on"),
            (layout.validation, "calibrated with"),
            (layout.test, "tested on"),
        )
        if folder is not None
    ]
    return ", ".join(parts)


def _labelled(given: dict[Role, Path], train: Path, reader: FolderReader) -> dict[Role, Path]:
    """The folders of class folders, other than `train`, that have some. Reports the others."""
    classes = {composed(folder.name) for folder in reader.listing(train).folders}
    labelled: dict[Role, Path] = {}
    for role in (Role.VALIDATION, Role.TEST):
        if role in given:
            folder = _class_parent(given[role], reader, is_class=lambda name: name in classes)
            if reader.listing(folder).folders:
                labelled[role] = folder
            else:
                why = "it has no class folders, so no labels"
                _leave_out(given[role], reader, UNLABELLED, why)
    return labelled


def _the_one(folders: Sequence[Path], reader: FolderReader, role: Role) -> Path:
    """The folder of that role. Of several, the only one of a plain name, or with class folders."""
    for fits in (
        lambda folder: True,
        lambda folder: bool(reader.listing(folder).folders),
        lambda folder: folder.name.casefold() == role.value,
    ):
        fitting = [folder for folder in folders if fits(folder)]
        if len(fitting) == 1:
            for other in folders:
                if other != fitting[0]:
                    why = f"{fitting[0].name}/ is taken for {role.value}/"
                    _leave_out(other, reader, NO_SPLIT, why)
            return fitting[0]
    names = " and ".join(f"{folder.name}/" for folder in folders)
    raise UserError(
        f"{folders[0].parent} has {names}, expected one {role.value}/; move the others away, "
        "or move their images into one"
    )


def _class_parent(split: Path, reader: FolderReader, *, is_class: Callable[[str], bool]) -> Path:
    """The folder of the split that holds its class folders: `seg_train/seg_train`."""
    folder = split
    while True:
        folders = reader.listing(folder).folders
        if len(folders) != 1 or is_class(composed(folders[0].name)):
            return folder
        inner = folders[0]
        if not (_holds_folders(inner, reader) or _repeats(split, inner, reader)):
            return folder
        folder = inner


def _repeats(split: Path, inner: Path, reader: FolderReader) -> bool:
    """Whether `inner` is a split's folder of images without labels, such as `pred/pred`."""
    return holds_no_class(inner.name) and not reader.listing(split).images
