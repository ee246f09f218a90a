"""WebDataset shards: tar files whose members of one sample have one name up to its first dot.

`cat/17.jpg` and `cat/17.cls` are a picture and its class. The class may also be in a `.json` file,
under a usual name such as "label" or the one that `--columns label=...` gives, or in a `.txt` file.
The `.json` file says the split and the group. `17.meta.json` stands for `17.json` where no other
member does; beside `17.cls`, `17.noisy.cls` states no class.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runtime.base.errors import ImageError, UserError
from runtime.images.image_folders import NOT_AN_IMAGE, is_of_the_system
from runtime.images.image_formats import START_BYTES, SUFFIXES, is_read
from training.config.data_columns import Columns
from training.data.archive_members import ArchiveReader, Members
from training.data.class_folders import first_with_something, has_class_folders
from training.data.labelled_rows import Row
from training.data.loading_progress import report
from training.data.packed_image import PackedImage
from training.data.split_words import Role
from training.data.table_cells import group_in, label_in, split_in
from training.data.table_columns import find_columns
from training.data.text_tables import Cell, text_of

_LABELS = ("cls", "json", "txt")  # the surest first
_MAX_LABEL_BYTES = 1 << 20
_COMPARED = 2000  # texts that are compared with each other and with the names of folders


@dataclass
class Sample:
    """The members of one sample: its pictures, and the others by all behind the first dot."""

    pictures: list[PackedImage] = field(default_factory=list)
    others: dict[str, PackedImage] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[PackedImage]:
        """`17.json`, or all of `17.meta.json`, `17.more.json`... where there is no such."""
        if kind in self.others:
            return [self.others[kind]]
        return [member for ending, member in self.others.items() if _kind(ending) == kind]

    @property
    def labels(self) -> list[PackedImage]:
        """The member that states the class; without a plain ending, all that may state it."""
        plain = [self.others[kind] for kind in _LABELS if kind in self.others]
        return plain[:1] or [member for kind in _LABELS for member in self.of_kind(kind)]


def _kind(ending: str) -> str:
    return ending.rpartition(".")[2]


def samples_of(members: Mapping[Path, PackedImage]) -> dict[Path, Sample]:
    """The samples of one shard by their names, in its order."""
    samples: dict[Path, Sample] = {}
    for path, member in members.items():
        if is_of_the_system(path.name):
            continue
        stem, _, ending = path.name.partition(".")
        sample = samples.setdefault(path.with_name(stem), Sample())
        ending = ending.lower()
        kind = _kind(ending)
        if path.name.lower().endswith(SUFFIXES) or (kind not in _LABELS and _is_picture(member)):
            sample.pictures.append(member)
        else:
            sample.others[ending] = member
    return samples


def is_web_dataset(samples: Mapping[Path, Sample]) -> bool:
    """Whether there is a sample of a picture and its class; others are folders in a tar file."""
    return any(sample.pictures and sample.labels for sample in samples.values())


@dataclass(frozen=True)
class Captions:
    """Texts beside pictures in class folders, which do not state the classes.

    Attributes:
        said: that the folders are read and not the texts, and why.
        doubtful: whether the same texts come again and again, as classes do.
    """

    said: str
    doubtful: bool


def captions_of(archive: Path, members: Members, samples: Mapping[Path, Sample]) -> Captions | None:
    """What the texts beside the pictures are, if they are captions: class folders hold them.

    They state the classes if there is a `.cls` or `.json` file beside a picture, too, if they name
    the folders, or if few different ones lie in numbered folders, which are parts of the data then.
    """
    labelled = {name: sample for name, sample in samples.items() if sample.pictures}
    found = {name: sample.of_kind("txt") for name, sample in labelled.items()}
    texts = {name: members[0] for name, members in found.items() if members}
    if not texts or any(one.of_kind("cls") or one.of_kind("json") for one in labelled.values()):
        return None
    if all(name.parent == archive for name in samples):
        return None  # without reading what a million files are, one by one
    reader = ArchiveReader(archive, members)
    root = first_with_something(archive, reader)
    if not has_class_folders(root, reader):
        return None
    some = [*texts][:: max(1, len(texts) // _COMPARED)][:_COMPARED]
    read = {name: _text(texts[name], errors="replace").strip() for name in some}
    if all(text in name.parent.relative_to(archive).parts for name, text in read.items()):
        return None
    repeated = 1 < len({*read.values()}) <= len(read) / 2
    if repeated and all(folder.name.isdecimal() for folder in reader.listing(root).folders):
        return None
    said = (
        f"class folders are read, and not the {len(texts)} .txt files beside pictures; as "
        "WebDataset, their classes would be in .cls files"
    )
    return Captions(said, doubtful=repeated)


def rows_of_shard(
    archive: Path,
    samples: Mapping[Path, Sample],
    asked: Columns,
    *,
    split: Role | None,
    left_out: Counter[str],
) -> list[Row]:
    """The labelled images of one shard. Their paths are those in the shard.

    Args:
        archive: the shard.
        samples: in it.
        asked: the columns that the user has named: keys of the `.json` members.
        split: what its images are for; None: nothing says that.
        left_out: counts samples without a picture.

    Raises:
        UserError: if a sample has several pictures, or what it says cannot be used.
    """
    rows = []
    without = 0
    for name, sample in samples.items():
        if not sample.pictures:
            without += 1
            continue
        if len(sample.pictures) > 1:
            names = " and ".join(picture.path.name for picture in sample.pictures[:2])
            raise UserError(f"{name}: has the pictures {names}; expected one in a sample")
        label, role, group = _said(name, sample, asked, split)
        (picture,) = sample.pictures
        stored = picture.path.relative_to(archive).as_posix()
        rows.append(Row(picture, stored, label, role, group, stored))
    if without:
        left_out[NOT_AN_IMAGE] += without
        report(f"{archive}: {without} samples without a picture left out")
    return rows


def _is_picture(member: PackedImage) -> bool:
    try:
        return is_read(member.start(START_BYTES))
    except ImageError:
        return False


def _said(
    name: Path, sample: Sample, asked: Columns, split: Role | None
) -> tuple[str, Role | None, str]:
    """The class, the split and the group that a sample states.

    A `.cls` file states the class, unless the user has named a key for it; split and group are
    those of the `.json` file beside it.

    Raises:
        UserError: if several files may state the class, or what they say cannot be used.
    """
    if not sample.labels:
        return "", split, ""
    member, *others = sample.labels
    if others and asked.label is None:
        may = " or ".join(one.path.name for one in sample.labels)
        plain = f"{name.name}.{_kind(member.path.name)}"
        raise UserError(
            f"{name}: {may} may state the class; expected one file that does, such as {plain}"
        )
    objects = sample.of_kind("json")
    keys = objects[0] if len(objects) == 1 else None
    fields = None if keys is None else _fields(keys)
    named = asked.label or asked.split or asked.group
    if keys is None or not isinstance(fields, dict):
        if named:
            has = "several .json files" if len(objects) > 1 else "no .json file with keys"
            raise UserError(
                f"{name}: has {has}, and --columns names {named!r}; expected one "
                "beside each picture"
            )
        text = text_of(fields) if member is keys else _text(member).strip()
        return label_in(text, where=str(member.path)), split, ""
    at = str(keys.path)
    cells: dict[str, Cell] = {key: text_of(value) for key, value in fields.items()}
    label = asked.label
    if label is None and member is not keys:
        label, at_label = _LABELS[0], str(member.path)
        cells[label] = _text(member).strip()
    else:
        at_label = at
    names = ["image", *(key for key in cells if key != "image")]
    columns = find_columns(names, Columns("image", label, asked.split, asked.group), where=at)
    if columns.split:
        split = split_in(cells[columns.split], column=columns.split, where=at)
    group = group_in(cells[columns.group], where=at) if columns.group else ""
    return label_in(cells[columns.label], where=at_label), split, group


def _fields(member: PackedImage) -> object:
    try:
        return msgspec.json.decode(_text(member))
    except msgspec.DecodeError as error:
        raise UserError(f"{member.path}: no JSON ({error}); expected an object") from error


def _text(member: PackedImage, *, errors: str = "strict") -> str:
    try:
        return member.read().decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{member.path}: no UTF-8 text; expected the name of a class") from error
    except ImageError as error:
        raise UserError(str(error)) from error
