"""`--columns image=path,label=species`: which columns of a list or table hold what."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, fields

from runtime.base.errors import UserError

EXAMPLE = "--columns image=COLUMN,label=COLUMN"


@dataclass(frozen=True)
class Columns:
    """The columns that the user has named. None: found by its usual name. "": there is none.

    Attributes:
        image: the path of the image, or the image itself.
        label: the name of its class.
        split: train, val or test, in any of the words for them.
        group: images with the same value never lie on both sides of a split.
    """

    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


PURPOSES = tuple(field.name for field in fields(Columns))


def columns_of(text: str) -> Columns:
    """The columns that an option names. An empty text names none.

    Raises:
        UserError: if it is not a list of `purpose=column` with commas between them.
    """
    named: dict[str, str] = {}
    for part in text.split(",") if text else ():
        purpose, equals, column = (word.strip() for word in part.partition("="))
        if not equals or purpose not in PURPOSES or purpose in named:
            raise UserError(
                f"columns {text!r}: received {part!r}, expected each of {', '.join(PURPOSES)} "
                f"at most once, as in {EXAMPLE}"
            )
        if not column and purpose in ("image", "label"):
            raise UserError(f"columns {text!r}: {purpose} needs the name of a column")
        named[purpose] = column
    return Columns(**named)


def columns_text(text: str) -> str:
    """`text`, checked, as the `type` of an option."""
    try:
        columns_of(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from error
    return text
