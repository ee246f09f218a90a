"""How the cache keeps pictures: what `--cache` says."""

from argparse import ArgumentTypeError

from runtime.base.errors import UserError

ARRAYS, ENCODED = "arrays", "encoded"
_MIN_QUALITY, _MAX_QUALITY = 1, 100
_EXPECTED = f"{ARRAYS}, {ENCODED} or {ENCODED}:QUALITY (a JPEG quality from 1 to 100)"


def cache_form(text: str) -> str:
    """The form of the cache, as the `type` of an option."""
    try:
        jpeg_quality(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def jpeg_quality(form: str) -> int | None:
    """The quality of the JPEGs that training pictures are made to; None: they stay as they are.

    Raises:
        UserError: if there is no such form of the cache.
    """
    if form in (ARRAYS, ENCODED):
        return None
    word, _, quality = form.partition(":")
    whole = quality.isascii() and quality.isdecimal() and quality == quality.lstrip("0")
    if word != ENCODED or not whole or not _MIN_QUALITY <= int(quality) <= _MAX_QUALITY:
        raise UserError(f"received {form!r}, expected {_EXPECTED}")
    return int(quality)
