"""A user's picture: from the upload to what the network sees. Only that small view is kept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.look.markup import picture_uri
from runtime.base.errors import ImageError
from runtime.model.card import InputSpec
from runtime.model.preprocess import Limits, decode_image, fit_image

PREVIEW = 320  # pixels of a preview's long edge
_PREVIEW_SPEC = InputSpec(
    size=PREVIEW, resize=PREVIEW, crop=PREVIEW, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


@dataclass(frozen=True)
class Upload:
    """A file that a user has sent, as it lies in the server's private temporary folder."""

    path: Path
    name: str

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Upload":
        """What Gradio passes with `preprocess=False`, after it has checked where the file lies.

        Its own preprocessing would decode the file before our limits apply, and answer a broken
        one with an error of Pillow's.
        """
        path = Path(payload["path"])
        return cls(path, payload.get("orig_name") or path.name)

    def read(self, limits: Limits) -> bytes:
        """The content; ImageError if it is gone, or larger than the page takes."""
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
        preprocess_ms: time to cut and resize it.
        preview: the whole image, small, as a `data:` address.
        label: the true label, if known (the bundle's examples).
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
    """Decodes and prepares an image for every model; ImageError naming it when it cannot."""
    views: dict[InputSpec, NDArray[np.uint8]] = {}
    times: list[tuple[float, float]] = []
    for spec in specs:
        started = time.perf_counter()
        decoded = decode_image(content, spec, limits=limits, name=name)
        after_decode = time.perf_counter()
        views[spec] = fit_image(decoded, spec)
        times.append((after_decode - started, time.perf_counter() - after_decode))
    decode_s, preprocess_s = times[0]
    return Picture(
        name=name,
        views=views,
        decode_ms=1e3 * decode_s,
        preprocess_ms=1e3 * preprocess_s,
        preview=_preview(content, name=name, limits=limits),
        label=label,
    )


def _preview(content: bytes, *, name: str, limits: Limits) -> str:
    """The whole image, upright, as a `data:` address."""
    image = decode_image(content, _PREVIEW_SPEC, limits=limits, name=name)
    image.thumbnail((PREVIEW, PREVIEW))
    return picture_uri(image)
