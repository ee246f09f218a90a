"""Small pieces of HTML. Everything that comes from a user or a file goes through `text`."""

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The long edge, in pixels, up to which pictures are PNG. Such a small picture is shown with large
# pixels, in which one would see what compression changes.
LOSSLESS = 96


def text(value: object) -> str:
    """`value` as text that is safe between tags and in quoted attributes."""
    return escape(str(value), quote=True)


def picture_uri(image: Image.Image | NDArray[np.uint8], *, quality: int | None = 80) -> str:
    """An image as a `data:` address, so that no file of it is kept.

    Args:
        image: a PIL image or an array, uint8 RGB (H, W, 3).
        quality: of WebP; with None, and with a long edge of up to LOSSLESS pixels, it is PNG.
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
    """A message in place of a result. Both texts are escaped; `kind` is `error` or `hint`."""
    role = "alert" if kind == "error" else "note"
    return (
        f'<div class="notice {kind}" role="{role}"><strong>{text(title)}</strong>'
        f"<p>{text(message)}</p></div>"
    )


def facts_list(rows: list[tuple[str, str]]) -> str:
    """A list of names and values. The names are escaped, the values are HTML already."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{items}</dl>'


def html_table(
    head: list[str],
    rows: list[list[str]],
    *,
    caption: str,
    sorted_by: str | None = None,
    tall: bool = False,
) -> str:
    """A table that scrolls sideways on a phone.

    Args:
        head: the title of each column; escaped.
        rows: the cells of each row, which are HTML already; the first one is the row's title.
        caption: what a screen reader calls the table; escaped.
        sorted_by: the column that the rows are sorted by, from small to large; then a click on a
            title sorts them by its column (`page.js`), by the value of a cell's `<data>` if it has
            one. None: the rows stay as they are.
        tall: whether there are so many rows that they scroll in the table.
    """
    columns = "".join(_column(name, sorted_by) for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    # With `tabindex` a keyboard can scroll it.
    kind = "scroll tall" if tall else "scroll"
    opening = "<table>" if sorted_by is None else '<table class="sorts">'
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{text(caption)}">{opening}'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _column(name: str, sorted_by: str | None) -> str:
    if sorted_by is None:
        return f'<th scope="col">{text(name)}</th>'
    order = "ascending" if name == sorted_by else "none"
    button = f'<button type="button">{text(name)}</button>'
    return f'<th scope="col" aria-sort="{order}">{button}</th>'
