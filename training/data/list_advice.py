"""What to do about lists beside class folders that state more than the folders do.

The advice is tried before it is given, or it is known to work from the names of the lists.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.shown_text import pasted
from training.config.data_columns import columns_of
from training.data.list_choice import lists_beside
from training.data.list_facts import Facts, option_for
from training.data.listed_data import Place
from training.data.loading_progress import recorded
from training.data.source import Contents, splits_of
from training.data.split_words import Role


def check_nothing_is_lost(
    root: Path, place: Place, lists: Sequence[Facts], contents: Contents, *, of_a_run: bool
) -> None:
    """Checks that no list states more of the images in class folders than the folders do.

    Args:
        root: the folder, or the archive.
        place: of the folder.
        lists: beside the folders, which agree with the folders or state no classes.
        contents: of the folders. Where the folders state the split, they are what the user means.
        of_a_run: whether a run was trained on the folders. Then they are meant, too.

    Raises:
        UserError: if one states groups or a split. It says how to read the list, and how not to.
    """
    if of_a_run or contents.redraw is None or not any(lists):
        return
    pictures = {picture for split in splits_of(contents) for picture in split.images}
    found = [one for one in lists if one and not pictures.isdisjoint(one.images)]
    if not found:
        return
    stated = ", and ".join(f"{one.file} states {one.in_words}" for one in found)
    links = ", or give a folder of links to them" if root.is_dir() else ""
    away = "the file" if len(found) == 1 else "the files"
    raise UserError(
        f"{stated}, and the class folders beside it do not; {_advice(root, place, lists, found)}; "
        f"to read the folders alone, take {away} away{links}"
    )


def _advice(root: Path, place: Place, lists: Sequence[Facts], found: Sequence[Facts]) -> str:
    """How the lists are read.

    Args:
        root: the folder, or the archive.
        place: of the folder.
        lists: all whose classes are those of the folders, or that have none.
        found: those of them that state more than the folders.
    """
    them = "it" if len(found) == 1 else "them"
    # A `test.csv` of other images, without classes, is left out.
    lists = [one for one in lists if one in found or one.columns.label]
    roles = [one.role for one in lists]
    once = len({*roles}) == len(roles)
    labelled = all(one.columns.label for one in found)
    column = "" if labelled else f"give {them} a column for the classes, called label, and "
    if labelled:
        for option in dict.fromkeys((option_for(found), option_for(lists))):
            if {one.file for one in found} <= _lists_with(root, place, option):
                return f"give {_columns(option)} to read {them}"
    elif roles == [None] or (once and Role.TRAIN in roles and None not in roles):
        return f"{column}{_columns(option_for(lists))} to read {them}"
    if once and all(one.by_name for one in lists):
        folders = " and ".join(["train", *(role.value for role in roles if role)])
        return (
            f"{column}add a list to train on with the same columns, such as train.csv, and give "
            f"{_columns(option_for(lists))} to read them; or put the images into folders called "
            f"{folders}"
        )
    split = ", and one for the split, called split" if any(map(_holds_out, lists)) else ""
    one_list = (
        "put one list of all images in place of the lists, with a column for the classes, called "
        f"label{split}"
    )
    whole = [one for one in found if one.columns.label and not one.by_name]
    if not whole or not root.is_dir():
        return one_list
    only = f"--data {pasted(whole[0].file)} {_columns(option_for(whole[:1]))}"
    return f"{one_list}; or name the one to read, such as {only}"


def _lists_with(root: Path, place: Place, option: str) -> set[Path]:
    """The lists that are read with `--columns option`; none if that is an error."""
    try:
        with recorded(aloud=False):
            return {*lists_beside(root, place, columns_of(option), packed=False).lists}
    except UserError:
        return set()


def _columns(option: str) -> str:
    return f"--columns {shlex.quote(option)}"


def _holds_out(one: Facts) -> bool:
    return one.by_name or one.by_column
