"""Small pieces of HTML. Everything that a user or a file supplies goes through `text`."""

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOSSLESS = 96  # pictures up to here are PNG: compression would show in a few large pixels


def text(value: object) -> str:
    """`value` as text that is safe between tags and in quoted attributes."""
    return escape(str(value), quote=True)


def picture_uri(image: Image.Image | NDArray[np.uint8], *, quality: int | None = 80) -> str:
    """An image as a `data:` address, so that it is in no file.

    WebP at `quality`; PNG with None, or when its long edge is up to LOSSLESS pixels.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    lossless = quality is None or max(picture.size) <= LOSSLESS
    if lossless:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "WEBP", quality=quality)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def notice(title: str, message: str, *, kind: str = "error") -> str:
    """A message in place of a result; `kind` is `error` or `hint`. Both texts are escaped."""
    role = "alert" if kind == "error" else "note"
    return (
        f'<div class="notice {kind}" role="{role}"><strong>{text(title)}</strong>'
        f"<p>{text(message)}</p></div>"
    )


def facts(rows: list[tuple[str, str]]) -> str:
    """A list of names and values; the values are HTML, the names are escaped."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{items}</dl>'


def table(head: list[str], rows: list[list[str]], *, caption: str) -> str:
    """A table that scrolls sideways on a phone; cells are HTML, head and caption are escaped."""
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    # tabindex: a keyboard can scroll it
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )
