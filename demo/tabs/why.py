"""The heat map as people see it: laid over the network's own view, with a legend and a sentence."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.look import words
from demo.look.markup import LOSSLESS, notice, picture_uri, text
from demo.service.models import Model
from demo.service.picture import Picture
from demo.tabs.explain import HeatMap, Progress, heat_map

EMPTY = notice(
    "No picture yet", "Choose one on the left; here you then see what it hangs on.", kind="hint"
)
OVERLAY = 112  # pixels of the smoothed overlay; the browser scales it to the picture
_STRONGEST_ALPHA = 200
_LEAST_SCALE = 0.1  # log-odds: differences below this are drawn faint, not blown up
_FOR = (230, 85, 13)  # orange and blue are told apart by nearly everyone
_AGAINST = (33, 102, 172)


@dataclass(frozen=True)
class Explanation:
    """A heat map for one label, and how long it took."""

    label: str
    map: HeatMap
    seconds: float


def best_classes(model: Model, picture: Picture, number: int) -> list[int]:
    """The indices of the most probable classes."""
    answer = model.classifier.session.run(picture.views[model.card.input][None])[0]
    return [prediction.index for prediction in model.classifier.rank(answer, number)]


def explain(
    model: Model, picture: Picture, index: int, *, progress: Progress | None = None
) -> Explanation:
    """Asks the open session itself, in batches of arrays."""
    started = time.perf_counter()
    view = picture.views[model.card.input]
    found = heat_map(model.run, view, index, progress=progress)
    return Explanation(model.card.class_names[index], found, time.perf_counter() - started)


def why_html(model: Model, picture: Picture, explanation: Explanation) -> str:
    view = picture.views[model.card.input]
    plain = (
        f'<img src="{picture_uri(view, quality=85)}" alt="The picture as the network sees it, '
        f'{text(words.square(view.shape[0]))}">'
    )
    shade = overlay(explanation.map.cells)
    heat = f'<img class="heat" src="{picture_uri(shade, quality=None)}" alt="">'
    return (
        f'<article class="why {"tiny" if view.shape[0] <= LOSSLESS else ""}">'
        f'<figure><div class="stack">{plain}</div>'
        f"<figcaption>What the network sees: {text(words.square(view.shape[0]))}</figcaption>"
        f'</figure><figure><div class="stack" data-testid="heat-map">{plain}{heat}</div>'
        f"<figcaption>What “{text(explanation.label)}” hangs on</figcaption></figure>"
        f'<div class="legend"><i></i><span>covering this strengthens it</span>'
        "<span>covering this weakens it</span></div>"
        f"<p>{_sentence(explanation)}</p></article>"
    )


def overlay(cells: NDArray[np.float32]) -> Image.Image:
    """RGBA: orange where covering weakens the answer, blue where it strengthens it."""
    scale = max(float(np.abs(cells).max()), _LEAST_SCALE)
    smooth = np.asarray(
        Image.fromarray(cells / scale).resize((OVERLAY, OVERLAY), Image.Resampling.BICUBIC)
    ).clip(-1, 1)
    colours = np.where(smooth[..., None] > 0, _FOR, _AGAINST)
    alpha = np.abs(smooth)[..., None] * _STRONGEST_ALPHA
    return Image.fromarray(np.concatenate([colours, alpha], axis=2).astype(np.uint8), "RGBA")


def _sentence(explanation: Explanation) -> str:
    found, label = explanation.map, text(explanation.label)
    if float(np.abs(found.cells).max()) < _LEAST_SCALE:
        effect = (
            f"No single spot decides: “{label}” stays the same wherever the picture is covered."
        )
    elif words.percent(found.lowest) == words.percent(found.probability):
        effect = (
            f"Covering hardly changes “{label}”: {words.percent(found.probability)} at the worst."
        )
    else:
        effect = (
            f"The worst cover takes “{label}” from {words.percent(found.probability)} down to "
            f"{words.percent(found.lowest)}."
        )
    return (
        f"{effect} Every spot was painted over in turn and the network asked again, "
        f"{found.runs} times in {words.milliseconds(1e3 * explanation.seconds)}."
    )
