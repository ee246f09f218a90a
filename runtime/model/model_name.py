"""The names by which servers know a model and its second input.

A model's name has letters, digits and . _ + -, as in Triton's folders.
"""

import re

from runtime.base.errors import UserError
from runtime.model.card import Card

ENCODED_NAME = "encoded"  # the input that takes files of pictures, as BYTES (N, 1)
_LONGEST_DEFAULT = 100  # a folder's name has at most 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def default_name(card: Card) -> str:
    """DATA-ARCH, with "_" for what a name cannot have.

    A name begins with a letter or a digit. Data may have other names, such as a folder "_new".
    """
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{card.provenance.data}-{card.arch}")
    return name.lstrip("._+-")[:_LONGEST_DEFAULT]


def checked_name(name: str, *, option: str) -> str:
    """Returns `name`.

    Raises:
        UserError: it cannot be a folder's name; the message names the `option` that gave it.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{option} {name!r} is no folder name; use letters, digits, and . _ + -")
    return name
