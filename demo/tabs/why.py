"""The pane Why: a heat map over the picture shows which spots the answer depends on."""

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.look import wording
from demo.look.markup import LOSSLESS, notice, picture_uri, text
from demo.look.panels import (
    HEAVY,
    PROGRESS,
    QUIET,
    PaneUpdate,
    TabState,
    Turn,
    no_picture,
    or_notice,
    panel,
)
from demo.service.models import Model, Models
from demo.service.occlusion import HeatMap, Progress, heat_map
from demo.service.picture import Picture
from demo.tabs.answer import TOP_K
from runtime.base.errors import UserError

NAME = "why"
EMPTY = notice(
    "No picture yet",
    "Choose one on the left; here you then see what its answer depends on.",
    kind="hint",
)
_OVERLAY = 112  # pixels of the smoothed overlay; the browser scales it to the picture
_STRONGEST_ALPHA = 200
_LEAST_SCALE = 0.1  # log-odds: smaller differences are drawn faintly, not amplified
_FOR = (230, 85, 13)  # nearly everyone can tell this orange from this blue
_AGAINST = (33, 102, 172)


@dataclass(frozen=True)
class Explanation:
    """A heat map for one label, and how many seconds it took."""

    label: str
    map: HeatMap
    seconds: float


def build(models: Models, state: TabState, runs_on: gr.Dropdown) -> PaneUpdate:
    """Lays out the pane.

    Args:
        models: what answers.
        state: the browser tab's picture and pane.
        runs_on: the list in which the user chooses the model.

    Returns:
        What has to be done when the picture or the model changes.
    """
    clicks = _WhyClicks(models)
    with gr.Tab("Why") as tab:
        shown = panel(EMPTY, elem_id="why")
        label = gr.Dropdown([], label="Look at another label", visible=False, filterable=False)
    asked = [gr.State(Turn()), state.picture, state.had_picture, runs_on]
    update = PaneUpdate(clicks.show, [state.pane, *asked], [label, shown])
    update.after(tab.select(lambda: NAME, None, state.pane, **QUIET))
    label.input(clicks.look_at, [label, *asked], shown, **HEAVY)
    return update


class _WhyClicks:
    """What happens when the pane is shown, and when another label is chosen."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def show(
        self,
        pane: str,
        turn: Turn,
        picture: Picture | None,
        had_picture: bool,
        key: str,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, Any]:
        """The labels to choose from, and the explanation of the most probable one."""
        return turn.unless_overtaken(
            lambda: self._show(pane, picture, had_picture, key, progress), (gr.skip(), gr.skip())
        )

    def _show(
        self,
        pane: str,
        picture: Picture | None,
        had_picture: bool,
        key: str,
        progress: gr.Progress,
    ) -> tuple[Any, str]:
        if picture is None:
            return gr.update(visible=False), no_picture(had_picture, EMPTY)
        if pane != NAME:
            return gr.update(visible=False), ""
        try:
            model = self.models.open(key)
            best = most_probable(model, picture, TOP_K)
        except UserError as error:
            return gr.update(visible=False), notice("That did not work", str(error))
        menu = [(model.card.class_names[index], index) for index in best]
        shown = self._explanation(best[0], picture, key, progress)
        return gr.update(choices=menu, value=best[0], visible=True), shown

    def look_at(
        self,
        index: int,
        turn: Turn,
        picture: Picture | None,
        had_picture: bool,
        key: str,
        progress: gr.Progress = PROGRESS,
    ) -> Any:
        """The explanation of the class with this index."""
        if picture is None:
            turn.take()
            return no_picture(had_picture, EMPTY)
        return turn.unless_overtaken(
            lambda: self._explanation(index, picture, key, progress), gr.skip()
        )

    def _explanation(self, index: int, picture: Picture, key: str, progress: gr.Progress) -> str:
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Covering spot after spot", unit="covers")

        def html() -> str:
            model = self.models.open(key)
            return why_html(model, picture, explain(model, picture, index, progress=report))

        return or_notice(html)


def most_probable(model: Model, picture: Picture, number: int) -> list[int]:
    """The indices of the most probable classes, at most `number`, the most probable first."""
    (answer,) = model.classifier.classify_prepared(model.view_of(picture)[None], top_k=number)
    return [prediction.index for prediction in answer]


def explain(
    model: Model, picture: Picture, index: int, *, progress: Progress | None = None
) -> Explanation:
    """Asks the model about many partly covered copies of the picture.

    Args:
        model: what is asked. Its session is called directly, in batches of arrays.
        picture: what is covered, patch by patch.
        index: the class whose probability is watched.
        progress: called with the number of answered copies and of all copies.
    """
    started = time.perf_counter()
    view = model.view_of(picture)
    found = heat_map(model.classifier.probabilities, view, index, progress=progress)
    return Explanation(model.card.class_names[index], found, time.perf_counter() - started)


def why_html(model: Model, picture: Picture, explanation: Explanation) -> str:
    """The network's view beside the same view with the heat map, a legend and a sentence."""
    view = model.view_of(picture)
    plain = (
        f'<img src="{picture_uri(view, quality=85)}" alt="The picture as the network sees it, '
        f'{text(wording.square(view.shape[0]))}">'
    )
    shade = overlay(explanation.map.cells)
    heat = f'<img class="heat" src="{picture_uri(shade, quality=None)}" alt="">'
    return (
        f'<article class="why {"tiny" if view.shape[0] <= LOSSLESS else ""}">'
        f'<figure><div class="stack">{plain}</div>'
        f"<figcaption>What the network sees: {text(wording.square(view.shape[0]))}</figcaption>"
        f'</figure><figure><div class="stack" data-testid="heat-map">{plain}{heat}</div>'
        f"<figcaption>What “{text(explanation.label)}” depends on</figcaption></figure>"
        f'<div class="legend"><i></i><span>covering this strengthens it</span>'
        "<span>covering this weakens it</span></div>"
        f"<p>{_sentence(explanation)}</p></article>"
    )


def overlay(cells: NDArray[np.float32]) -> Image.Image:
    """The heat map as a picture with transparency.

    Args:
        cells: float32 (grid, grid), the loss of log-odds under a cover.

    Returns:
        An RGBA image: orange where covering weakens the answer, blue where it strengthens it.
    """
    scale = max(float(np.abs(cells).max()), _LEAST_SCALE)
    smooth = np.asarray(
        Image.fromarray(cells / scale).resize((_OVERLAY, _OVERLAY), Image.Resampling.BICUBIC)
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
    elif wording.percent(found.lowest) == wording.percent(found.probability):
        effect = (
            f"Covering hardly changes “{label}”: {wording.percent(found.probability)} at the worst."
        )
    else:
        effect = (
            f"The worst cover takes “{label}” from {wording.percent(found.probability)} down to "
            f"{wording.percent(found.lowest)}."
        )
    return (
        f"{effect} Every spot was painted over in turn and the network was asked again, "
        f"{found.runs} times in {wording.milliseconds(1e3 * explanation.seconds)}."
    )
