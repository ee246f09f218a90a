"""The tab Many: a grid with the answers of many pictures, and the same as a CSV file."""

import base64
import csv
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from demo.look import wording
from demo.look.markup import LOSSLESS, notice, picture_uri, text
from demo.look.panels import HEAVY, PROGRESS, Turn, model_menu, or_notice, panel
from demo.service.guard import MAX_UPLOAD_BYTES
from demo.service.models import LIMITS, Model, Models
from demo.service.picture import Upload
from runtime.base.errors import ImageError
from runtime.base.resources import usable_cores
from runtime.inference.pending_image import prepare_bounded
from runtime.inference.predictions import Predictions

MAX_PICTURES = 200
_CHUNK = 32
# Spreadsheet programs take a cell that begins with one of these for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
EMPTY = notice(
    "No pictures yet",
    f"Drop up to {MAX_PICTURES} pictures of {MAX_UPLOAD_BYTES >> 20} MB together, or choose them.",
    kind="hint",
)


def build(models: Models) -> None:
    """Lays out the tab and connects its uploads with their answers."""
    with gr.Row(elem_id="many"):
        with gr.Column():
            box = gr.File(
                label="Your pictures",
                file_count="multiple",
                height=200,
                elem_id="pictures-input",
            )
            runs_on = model_menu(models.menu, label="Runs on")
        with gr.Column():
            grid = panel(EMPTY, elem_id="grid")

    box.upload(
        _ManyClicks(models).answer,
        [box, runs_on, gr.State(Turn())],
        [grid, box],
        preprocess=False,
        show_progress_on=grid,
        # Pictures that are added while others are answered lie in the box with them; once these are
        # answered, the box is empty.
        **HEAVY | {"trigger_mode": "multiple"},
    )


class _ManyClicks:
    """What happens when pictures come."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def answer(
        self,
        payload: list[dict[str, Any]] | None,
        key: str,
        turn: Turn,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, Any]:
        """The new values of the grid and of the box."""
        if not payload:
            return gr.skip(), gr.skip()
        uploads = [Upload.from_payload(file) for file in payload]
        html = turn.unless_overtaken(
            lambda: or_notice(lambda: _many_html(self.models, key, uploads, progress)), gr.skip()
        )
        # None empties the box, which makes it ready for the next pictures.
        return html, None


def _many_html(models: Models, key: str, uploads: list[Upload], progress: gr.Progress) -> str:
    def report(done: int, total: int) -> None:
        progress((done, total), desc="Classifying", unit="pictures")

    if len(uploads) > MAX_PICTURES:
        message = f"{len(uploads)} arrived; send at most {MAX_PICTURES} at once."
        return notice("Too many pictures", message)
    return batch_html(classify_many(models.open(key), uploads, progress=report))


@dataclass(frozen=True)
class PictureAnswer:
    """The answer to one of many pictures, or why it has none.

    Attributes:
        name: the file's name.
        view: the network's input, uint8 RGB (size, size, 3); None for a broken picture.
        predictions: the labels, the most probable first; empty for a broken picture.
        problem: why a broken picture could not be read.
    """

    name: str
    view: NDArray[np.uint8] | None
    predictions: Predictions
    problem: str = ""


@dataclass(frozen=True)
class AnsweredPictures:
    """All answers in the order of the pictures; `seconds` from the files to the labels."""

    items: tuple[PictureAnswer, ...]
    seconds: float


def classify_many(
    model: Model, uploads: Sequence[Upload], *, progress: Callable[[int, int], None]
) -> AnsweredPictures:
    """Classifies all pictures; a broken one does no harm to the others.

    Args:
        model: what answers.
        uploads: the pictures.
        progress: called with the number of answered pictures and of all pictures.
    """
    started = time.perf_counter()
    items: list[PictureAnswer] = []
    for start in range(0, len(uploads), _CHUNK):
        items += _classify_chunk(model, uploads[start : start + _CHUNK])
        progress(len(items), len(uploads))
    return AnsweredPictures(tuple(items), time.perf_counter() - started)


def _classify_chunk(model: Model, uploads: Sequence[Upload]) -> list[PictureAnswer]:
    def prepare(upload: Upload) -> NDArray[np.uint8] | ImageError:
        try:
            return prepare_bounded(model.classifier, upload.read(LIMITS), name=upload.name)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow releases Python's lock to decode
        views = list(pool.map(prepare, uploads))
    whole = [view for view in views if not isinstance(view, ImageError)]
    answers = iter(future.result() for future in model.batcher.submit_prepared(whole))
    return [
        PictureAnswer(upload.name, None, Predictions(), str(view))
        if isinstance(view, ImageError)
        else PictureAnswer(upload.name, view, next(answers))
        for upload, view in zip(uploads, views, strict=True)
    ]


def batch_html(batch: AnsweredPictures) -> str:
    """The grid, and a link that holds the CSV file itself, so that the server keeps no file."""
    answered = sum(1 for item in batch.items if item.predictions)
    broken = len(batch.items) - answered
    rate = f", {answered / batch.seconds:,.0f} a second" if answered else ""
    trouble = f' <span class="wrong">{broken} could not be read.</span>' if broken else ""
    # Spreadsheet programs take a file without a byte order mark for one of another encoding.
    encoded = base64.b64encode(csv_text(batch).encode("utf-8-sig")).decode()
    return (
        '<article class="many"><div class="summary">'
        f"<p><b>{answered:,} answered</b> in {wording.milliseconds(1e3 * batch.seconds)}{rate}."
        f"{trouble}</p>"
        f'<a class="download" download="labels.csv" href="data:text/csv;base64,{encoded}">'
        f"Download CSV</a></div>"
        f'<ul class="grid">{"".join(_grid_cell(item) for item in batch.items)}</ul></article>'
    )


def _grid_cell(item: PictureAnswer) -> str:
    name = f'<small title="{text(item.name)}">{text(item.name)}</small>'
    if item.view is None:
        problem = item.problem.removeprefix(f"{item.name}: ")
        return f'<li class="broken"><p>{text(problem)}</p>{name}</li>'
    small = item.view.shape[0] <= LOSSLESS
    best = item.predictions[0]
    refused = item.predictions.accepted is False
    unsure = '<small class="hedge">not sure enough</small>' if refused else ""
    return (
        f'<li><img class="{"tiny" if small else ""}" alt="" '
        f'src="{picture_uri(item.view, quality=75)}">'
        f'<span class="label">{text(best.label)}</span>'
        f'<span class="probability">{wording.percent(best.probability)}</span>{unsure}{name}</li>'
    )


def csv_text(batch: AnsweredPictures) -> str:
    """The CSV file, a row for each picture: file, label, probability, accepted, problem.

    `accepted` is empty where the model's file has no threshold.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["file", "label", "probability", "accepted", "problem"])
    for item in batch.items:
        best = item.predictions[0] if item.predictions else None
        writer.writerow(
            [
                _csv_cell(item.name),
                _csv_cell(best.label) if best else "",
                f"{best.probability:.6f}" if best else "",
                {None: "", True: "true", False: "false"}[item.predictions.accepted],
                _csv_cell(item.problem),
            ]
        )
    return buffer.getvalue()


def _csv_cell(value: str) -> str:
    """`value` as text that no spreadsheet program takes for a formula."""
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
