"""What results call data at a path: the name of the file without its ending, or of its folder."""

from pathlib import Path

from training.data.folders import name_of
from training.data.split_words import holds_no_class
from training.data.text_tables import LIST_SUFFIXES

PARQUET, TAR, ZIP = ".parquet", ".tar", ".zip"
# What a list is often called. Its folder has the better name then.
NAMES_OF_LISTS = {"labels", "label", "metadata", "annotations", "index", "list", "classes"}


def data_name(path: Path) -> str:
    """What results call the data: the file's name without its ending, or the folder's.

    The folder of a list or a table has the better name where that is called `labels`, or a split.
    """
    if path.is_dir():
        return name_of(path)
    ending = path.suffix.lower()
    stem = path.stem if ending in (*LIST_SUFFIXES, PARQUET, TAR, ZIP) else path.name
    general = holds_no_class(stem) or stem.casefold() in NAMES_OF_LISTS
    if general and ending in (*LIST_SUFFIXES, PARQUET):
        return name_of(path.parent)
    return name_of(path.with_name(stem))
