"""A user's picture: from the upload to what the network sees. Only small views of it are kept."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.look.markup import picture_uri
from runtime.base.errors import ImageError
from runtime.images.jpeg_files import read_jpeg, start_of_jpeg
from runtime.images.pixel_budget import bounded_decoding
from runtime.model.card import InputSpec
from runtime.model.preprocess import Limits, decode_image, fit_image

PREVIEW = 320  # pixels of a preview's long edge
_PREVIEW_SPEC = InputSpec(
    size=PREVIEW, resize=PREVIEW, crop=PREVIEW, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


@dataclass(frozen=True)
class Upload:
    """A file that a user has sent. It lies in the server's private temporary folder."""

    path: Path
    name: str

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Upload":
        """The file that a call of Gradio names.

        The call must have `preprocess=False`: otherwise Gradio would decode the file before our
        limits apply, and would answer a broken file with an error of Pillow's. Gradio has checked
        that the file lies in its folder.
        """
        path = Path(payload["path"])
        return cls(path, payload.get("orig_name") or path.name)

    def read(self, limits: Limits) -> bytes:
        """The content of the file.

        Raises:
            ImageError: the file is gone, or larger than the page takes.
        """
        try:
            if self.path.stat().st_size > limits.max_bytes:
                raise ImageError(
                    f"{self.name}: larger than {limits.max_bytes >> 20} MB; send a smaller file"
                )
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name}: did not arrive; send it again") from error


@dataclass(frozen=True)
class Picture:
    """What is kept of an image between two clicks of one user.

    Attributes:
        name: the file's name.
        views: for each input of the models, the network's view: uint8 RGB (size, size, 3).
        decode_ms: time to decode the file for the first model.
        preprocess_ms: time to cut and resize it for the first model.
        preview: the whole image, small, as a `data:` address.
        label: the true label, if it is known, as of the bundle's examples.
    """

    name: str
    views: dict[InputSpec, NDArray[np.uint8]]
    decode_ms: float
    preprocess_ms: float
    preview: str
    label: str | None = None


def open_picture(
    content: bytes,
    specs: Sequence[InputSpec],
    *,
    name: str,
    limits: Limits,
    label: str | None = None,
) -> Picture:
    """Decodes an image and prepares it for every model.

    The file is decoded once. A JPEG is decoded again for another input, and for the preview where
    the decoder has reduced it below the preview's size: what the network sees must be the very
    pixels that the other ways to the classifier give it.

    Args:
        content: of the file.
        specs: the inputs of the models; the times are those of the first.
        name: of the file.
        limits: what is refused before it is decoded.
        label: the true label, if it is known.

    Raises:
        ImageError: the image cannot be decoded or is over a limit; the message names it.
    """
    with bounded_decoding():
        started = time.perf_counter()
        decoded = decode_image(content, specs[0], limits=limits, name=name)
        decode_s = time.perf_counter() - started
        views = {specs[0]: fit_image(decoded, specs[0])}
        preprocess_s = time.perf_counter() - started - decode_s
        largest = decoded
        for spec in specs[1:]:
            # The decoder of JPEG alone may reduce a picture, by what the network's input needs.
            if start_of_jpeg(content) >= 0:
                decoded = decode_image(content, spec, limits=limits, name=name)
            views[spec] = fit_image(decoded, spec)
            largest = max(largest, decoded, key=lambda image: image.width)
        if _is_reduced_too_far(largest, content):
            largest = decode_image(content, _PREVIEW_SPEC, limits=limits, name=name)
        largest.thumbnail((PREVIEW, PREVIEW))
    return Picture(
        name=name,
        views=views,
        decode_ms=1e3 * decode_s,
        preprocess_ms=1e3 * preprocess_s,
        preview=picture_uri(largest),
        label=label,
    )


def _is_reduced_too_far(decoded: Image.Image, content: bytes) -> bool:
    """Whether the file has more pixels than were decoded, and the preview would show more."""
    start = start_of_jpeg(content)
    if max(decoded.size) >= PREVIEW or start < 0:
        return False
    # Reads no pixels.
    with Image.open(io.BytesIO(read_jpeg(content[start:]).data), formats=["JPEG"]) as header:
        return max(header.size) > max(decoded.size)
