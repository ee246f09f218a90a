"""Why a picture cannot be decoded, in our words: a decoder's own say nothing to its owner."""

import struct

from PIL import Image

from runtime.base.errors import ImageError
from runtime.images.image_formats import READABLE, format_of
from runtime.images.image_metadata import EndsEarlyError, UnreadableError


def reading_error(
    error: Exception, source: bytes | Image.Image, max_pixels: int, name: str
) -> ImageError:
    """The error that a user gets for a decoder's.

    Args:
        error: the decoder's.
        source: what it read.
        max_pixels: the most pixels that are decoded.
        name: what to call the image.
    """
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{name}: more pixels than the limit, {max_pixels}")
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: too large for the memory that is free")
    if source == b"":
        return ImageError(f"{name}: is empty; expected {READABLE}")
    early = isinstance(error, (EndsEarlyError, EOFError, IndexError, struct.error)) or (
        isinstance(error, (OSError, SyntaxError)) and "runcated" in str(error)
    )
    if isinstance(error, UnreadableError) and str(error):
        return ImageError(f"{name}: not a readable image ({error}); expected {READABLE}")
    kind = (format_of(source) or "JPEG") if isinstance(source, bytes) else source.format or "image"
    end = "end early; get the whole file" if early else "are damaged; get the file again"
    return ImageError(f"{name}: not a readable image: the picture data of this {kind} {end}")
