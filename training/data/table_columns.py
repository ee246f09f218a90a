"""Which columns of a table hold the image, its class, its split and its group, by usual names."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from training.config.data_columns import EXAMPLE, PURPOSES, Columns

# The names that people give to columns, the surest first. Compared without case, space and signs.
_USUAL = {
    "image": (
        *("image", "imagepath", "imagefile", "imagefilename", "imagefilepath", "imagename"),
        *("filename", "filepath", "file", "path", "fullpath", "relativepath", "relpath", "fname"),
        *("img", "imgpath", "imgfile", "imgname", "picture", "picturepath", "photo", "photopath"),
        *("pic", "jpg", "png", "imageid", "imgid", "fileid", "photoid", "id"),
    ),
    "label": (
        *("label", "labelname", "labels", "class", "classname", "classlabel", "classes", "cls"),
        *("category", "categoryname", "target", "targetname", "species", "speciesname"),
        *("breed", "type", "kind", "diagnosis", "dx", "tag", "y", "finelabel"),
        *("labelid", "classid", "categoryid", "classindex", "labelidx", "classidx"),
    ),
    "split": ("split", "splitname", "datasplit", "subset", "partition", "set", "dataset", "usage"),
    "group": (
        *("group", "groupid", "patient", "patientid", "subject", "subjectid", "personid"),
        *("lesionid", "animalid", "individual", "individualid", "sequenceid", "seqid", "burstid"),
    ),
}
_MAX_NAMED = 12


@dataclass(frozen=True)
class Found:
    """The names of columns by what they hold. "": there is no such column."""

    image: str
    label: str
    split: str = ""
    group: str = ""


def find_columns(names: Sequence[str], asked: Columns, *, where: str) -> Found:
    """The columns among `names`: those that the user has named, and others by their usual names.

    Args:
        names: of the table's columns, as they are written there.
        asked: the columns that the user has named.
        where: the file, for messages.

    Raises:
        UserError: if a named column is not there, or there is none for the image or the label.
    """
    found = {}
    for purpose in PURPOSES:
        named = getattr(asked, purpose)
        if named is None:
            taken = [name for name in vars(asked).values() if name]
            found[purpose] = _usual(purpose, [name for name in names if name not in taken])
        else:
            found[purpose] = named and _named(named, names, where)
    missing = [purpose for purpose in ("image", "label") if not found[purpose]]
    if missing:
        raise UserError(
            f"{where} has no column whose name says that it holds the {' or the '.join(missing)}; "
            f"found {_listed(names)}; name them with {EXAMPLE}"
        )
    return Found(**found)


def usual_columns(names: Sequence[str]) -> Found:
    """The columns with usual names; "" for each purpose that none is called after."""
    return Found(**{purpose: _usual(purpose, names) for purpose in PURPOSES})


def has_columns(names: Sequence[str], asked: Columns) -> bool:
    """Whether `find_columns` would find the image and the label."""
    try:
        find_columns(names, asked, where="")
    except UserError:
        return False
    return True


def has_image_column(names: Sequence[str], asked: Columns) -> bool:
    """Whether there is a column for the images, named by the user or by a usual name."""
    return bool(_usual("image", names)) if asked.image is None else asked.image in names


def has_label_column(names: Sequence[str], asked: Columns) -> bool:
    """Whether there is a column for the classes, named by the user or by a usual name."""
    return bool(_usual("label", names)) if asked.label is None else asked.label in names


def said(found: Found, names: Sequence[str]) -> str:
    """What is read, and which other columns could have been meant."""
    words = {"image": "images", "label": "classes", "split": "splits", "group": "groups"}
    parts = [
        f"{words[purpose]} by {getattr(found, purpose)!r}"
        for purpose in PURPOSES
        if getattr(found, purpose)
    ]
    others = [name for name in names if name not in vars(found).values() and _is_label(name)]
    hint = f"; not by {_listed(others)}, which --columns label=... would choose" if others else ""
    return ", ".join(parts) + hint


def _is_label(name: str) -> bool:
    return _folded(name) in _USUAL["label"]


def _usual(purpose: str, names: Sequence[str]) -> str:
    folded = {_folded(name): name for name in reversed(names)}
    return next((folded[usual] for usual in _USUAL[purpose] if usual in folded), "")


def _named(wanted: str, names: Sequence[str], where: str) -> str:
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().casefold() == wanted.casefold()]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"{where} has no column {wanted!r}; found {_listed(names)}")


def _folded(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _listed(names: Sequence[str]) -> str:
    return some([*map(repr, names)], most=_MAX_NAMED) or "no columns"
