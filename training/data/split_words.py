"""Which part of a data set a folder holds, by its name: `train`, `Test`, `seg_train`, `val2017`."""

import re
import unicodedata
from enum import Enum
from itertools import pairwise


class Role(Enum):
    """What the images of a folder are for."""

    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"
    UNLABELLED = "pred"


_WORDS = {
    Role.TRAIN: {"train", "training", "trn"},
    Role.VALIDATION: {"val", "valid", "validation", "validate", "validating", "dev", "vld"},
    Role.TEST: {"test", "testing", "tst", "eval", "evaluation", "evaluate", "holdout", "heldout"},
    Role.UNLABELLED: {
        "pred",
        "predict",
        "prediction",
        "predictions",
        "inference",
        "unlabeled",
        "unlabelled",
        "submission",
    },
}
# Words that may be written together with one of those above: `trainset`, `traindata`.
_COMPANIONS = (
    *("set", "sets", "data", "dataset", "datasets", "split", "images", "image", "imgs", "img"),
    *("pics", "pictures", "photos", "folder", "dir", "files", "samples", "my", "the", "seg"),
)
_ROLE_OF = {word: role for role, words in _WORDS.items() for word in words}
_ROLE_OF |= {
    joined: role
    for word, role in list(_ROLE_OF.items())
    for companion in _COMPANIONS
    for joined in (word + companion, companion + word)
}
# People keep these two together in one folder, which is trained on.
_TRAIN_AND_VALIDATION = {"trainval", "trainvalid", "trainvalidation", "traindev"}
# What a folder is called that holds the images of a split, and no class.
_NO_CLASS = {*_COMPANIONS, "all", "unknown", "jpg", "jpeg", "jpegs", "png", "0"}


def role_of(name: str) -> Role | None:
    """What the folder's name says; None for a name that is no split's, or that names several."""
    words = _words(name)
    roles = {_ROLE_OF[word] for word in words if word in _ROLE_OF}
    roles |= {Role.TRAIN for word in words if word in _TRAIN_AND_VALIDATION}
    if roles == {Role.TRAIN, Role.VALIDATION} and "split" not in words:
        return Role.TRAIN
    return roles.pop() if len(roles) == 1 else None


def is_plain(name: str) -> bool:
    """Whether the name is one split word alone, in any case: `train`, `Valid`."""
    return any(name.strip().casefold() in words for words in _WORDS.values())


def holds_no_class(name: str) -> bool:
    """Whether a split's only folder, of this name, just holds its images: `test/images`."""
    return role_of(name) is not None or name.strip().casefold() in _NO_CLASS


def _words(name: str) -> list[str]:
    """The words of a name, alone and with the next one: `hold-out_2` has `hold`, `holdout`, `out`.

    A capital letter after a small one begins a word: `trainingSet` has `training` and `set`.
    """
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", apart.casefold())
    return words + [first + second for first, second in pairwise(words)]
