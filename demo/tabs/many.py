"""Many pictures at once: a grid of answers, and the same as a CSV file."""

import base64
import csv
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.look import words
from demo.look.markup import LOSSLESS, notice, picture_uri, text
from demo.service.guard import MAX_UPLOAD_BYTES
from demo.service.models import LIMITS, Model
from demo.service.picture import Upload
from runtime.base.errors import ImageError
from runtime.base.parallel import usable_cores
from runtime.inference.classifier import Predictions

MAX_PICTURES = 200
CHUNK = 32
# A cell that begins with one of these is a formula to spreadsheet programs.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
EMPTY = notice(
    "No pictures yet",
    f"Drop up to {MAX_PICTURES} pictures of {MAX_UPLOAD_BYTES >> 20} MB together, or choose them.",
    kind="hint",
)


@dataclass(frozen=True)
class Item:
    """One picture's answer, or why it has none."""

    name: str
    view: NDArray[np.uint8] | None
    predictions: Predictions
    problem: str = ""


@dataclass(frozen=True)
class Batch:
    """All answers in order; `seconds` from the files to the labels."""

    items: tuple[Item, ...]
    seconds: float


def classify_many(
    model: Model, uploads: Sequence[Upload], *, progress: Callable[[int, int], None]
) -> Batch:
    """Classifies all pictures; a broken one does no harm to the others."""
    started = time.perf_counter()
    items: list[Item] = []
    for start in range(0, len(uploads), CHUNK):
        items += _classify_chunk(model, uploads[start : start + CHUNK])
        progress(len(items), len(uploads))
    return Batch(tuple(items), time.perf_counter() - started)


def _classify_chunk(model: Model, uploads: Sequence[Upload]) -> list[Item]:
    def prepare(upload: Upload) -> NDArray[np.uint8] | ImageError:
        try:
            return model.classifier.prepare(upload.read(LIMITS), name=upload.name)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes without Python's lock
        views = list(pool.map(prepare, uploads))
    whole = [view for view in views if not isinstance(view, ImageError)]
    answers = iter(future.result() for future in model.batcher.submit_all(whole))
    return [
        Item(upload.name, None, [], str(view))
        if isinstance(view, ImageError)
        else Item(upload.name, view, next(answers))
        for upload, view in zip(uploads, views, strict=True)
    ]


def batch_html(batch: Batch) -> str:
    """The grid, with a link that holds the CSV file itself: nothing of it stays on the server."""
    answered = sum(1 for item in batch.items if item.predictions)
    broken = len(batch.items) - answered
    rate = f", {answered / batch.seconds:,.0f} a second" if answered else ""
    trouble = f' <span class="wrong">{broken} could not be read.</span>' if broken else ""
    encoded = base64.b64encode(csv_text(batch).encode()).decode()
    return (
        '<article class="many"><div class="summary">'
        f"<p><b>{answered:,} answered</b> in {words.milliseconds(1e3 * batch.seconds)}{rate}."
        f"{trouble}</p>"
        f'<a class="download" download="labels.csv" href="data:text/csv;base64,{encoded}">'
        f"Download CSV</a></div>"
        f'<ul class="grid">{"".join(_cell(item) for item in batch.items)}</ul></article>'
    )


def _cell(item: Item) -> str:
    name = f'<small title="{text(item.name)}">{text(item.name)}</small>'
    if item.view is None:
        problem = item.problem.removeprefix(f"{item.name}: ")
        return f'<li class="broken"><p>{text(problem)}</p>{name}</li>'
    small = item.view.shape[0] <= LOSSLESS
    best = item.predictions[0]
    return (
        f'<li><img class="{"tiny" if small else ""}" alt="" '
        f'src="{picture_uri(item.view, quality=75)}">'
        f'<span class="label">{text(best.label)}</span>'
        f'<span class="probability">{words.percent(best.probability)}</span>{name}</li>'
    )


def csv_text(batch: Batch) -> str:
    """One row a picture: file, label, probability, problem."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", "label", "probability", "problem"])
    for item in batch.items:
        best = item.predictions[0] if item.predictions else None
        writer.writerow(
            [
                _cell_text(item.name),
                _cell_text(best.label) if best else "",
                f"{best.probability:.6f}" if best else "",
                _cell_text(item.problem),
            ]
        )
    return buffer.getvalue()


def _cell_text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
