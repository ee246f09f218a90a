"""Whether a folder that also holds a list, or captions, has class folders, which win then."""

from pathlib import Path

from training.data.listing import FolderReader
from training.data.split_words import holds_no_class
from training.data.text_tables import LIST_SUFFIXES


def first_with_something(root: Path, reader: FolderReader) -> Path:
    """The folder itself, or the only one in it, as long as there is nothing else."""
    folder = root
    while True:
        listing = reader.listing(folder)
        if len(listing.folders) != 1 or listing.images or reader.files(folder, LIST_SUFFIXES):
            return folder
        folder = listing.folders[0]


def has_class_folders(root: Path, reader: FolderReader) -> bool:
    """Whether the folder, or a folder for a split in it, has folders that can only be classes."""
    folders = reader.listing(root).folders
    numbered = [folder for folder in folders if folder.name.strip().isdecimal()]
    # `0` alone just holds images; beside `1` it is a class.
    apart = numbered if len(numbered) > 1 else []
    splits = [folder for folder in folders if holds_no_class(folder.name) and folder not in apart]
    others = [folder for folder in folders if folder not in splits]
    if sum(holds_images(folder, reader) for folder in others) > 1:
        return True
    return any(has_class_folders(folder, reader) for folder in splits)


def may_have_classes(folder: Path, reader: FolderReader) -> bool:
    """Whether the folder holds a folder that may be a class, and no images itself."""
    listing = reader.listing(folder)
    others = [below for below in listing.folders if not holds_no_class(below.name)]
    return has_class_folders(folder, reader) or bool(others and not listing.images)


def has_deeper_folders(folder: Path, reader: FolderReader) -> bool:
    """Whether folders lie below a folder in it, which may be classes one step further down."""
    return any(reader.listing(below).folders for below in reader.listing(folder).folders)


def holds_images(folder: Path, reader: FolderReader) -> bool:
    """Whether images lie in the folder or below it."""
    listing = reader.listing(folder)
    return bool(listing.images) or any(holds_images(below, reader) for below in listing.folders)
