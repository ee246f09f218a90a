"""The pane Compare: two models answer the same picture and the same test images."""

from typing import Any

import gradio as gr

from demo.look import wording
from demo.look.markup import LOSSLESS, html_table, notice, picture_uri, text
from demo.look.panels import (
    HEAVY,
    PROGRESS,
    QUIET,
    PaneUpdate,
    TabState,
    Turn,
    model_menu,
    no_picture,
    or_notice,
    panel,
)
from demo.service.comparison import (
    Comparison,
    HoldoutComparison,
    ModelAnswer,
    compare_on_holdout,
    compare_on_picture,
)
from demo.service.models import Models
from demo.service.picture import Picture
from demo.tabs.answer import accuracy_words
from runtime.evaluation.compare_models import LEVEL, Compared

NAME = "compare"
EMPTY = notice(
    "No picture yet",
    "Choose one on the left; both models then answer it side by side.",
    kind="hint",
)
ONLY_ONE = notice(
    "Only one model file runs here",
    "Add another precision with `python export/run.py --precision fp32,int8`, "
    "or start the page with two models: `python demo/app.py MODEL MODEL`.",
    kind="hint",
)
_MENU_WIDTH = 240  # pixels, for the longest name; on a phone the two stand below one another
_SAME_SPEED = 1.1  # smaller ratios are noise


def build(models: Models, state: TabState) -> PaneUpdate:
    """Lays out the pane.

    Args:
        models: what answers.
        state: the browser tab's picture and pane.

    Returns:
        What has to be done when the picture changes.
    """
    clicks = _CompareClicks(models)
    with gr.Tab("Compare") as tab:
        with gr.Row(visible=not clicks.alone):
            first = model_menu(models.menu, label="First", elem_id="first", min_width=_MENU_WIDTH)
            second = model_menu(
                models.menu,
                label="Second",
                value=models.rival,
                elem_id="second",
                min_width=_MENU_WIDTH,
            )
        shown = panel(clicks.empty, elem_id="compared")
        test_both = gr.Button(
            "Compare them on the test images", visible=not clicks.alone, size="md"
        )
        tested = panel(elem_id="tested")
    asked = [state.pane, gr.State(Turn()), state.picture, state.had_picture, first, second]
    tests = gr.State(Turn())
    update = PaneUpdate(clicks.show, asked, [shown])
    update.after(tab.select(lambda: NAME, None, state.pane, **QUIET))
    for box in (first, second):
        update.after(box.input(clicks.forget_test, tests, tested, **QUIET))
    test_both.click(clicks.test, [tests, first, second], tested, **HEAVY)
    return update


class _CompareClicks:
    """What happens when the pane is shown, and when both models are to be tested."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.alone = len(models.menu) == 1
        self.empty = ONLY_ONE if self.alone else EMPTY

    def show(
        self,
        pane: str,
        turn: Turn,
        picture: Picture | None,
        had_picture: bool,
        first: str,
        second: str,
    ) -> Any:
        """Both answers to the picture, or why there are none."""
        return turn.unless_overtaken(
            lambda: self._show(pane, picture, had_picture, first, second), gr.skip()
        )

    def _show(
        self, pane: str, picture: Picture | None, had_picture: bool, first: str, second: str
    ) -> str:
        if self.alone:
            return self.empty
        if picture is None:
            return no_picture(had_picture, self.empty)
        if pane != NAME:
            return ""

        def html() -> str:
            models = self.models.open(first), self.models.open(second)
            return comparison_html(picture, compare_on_picture(*models, picture))

        return or_notice(html)

    def forget_test(self, turn: Turn) -> str:
        """Another model was chosen: a test of the former two that still runs is not shown."""
        turn.take()
        return ""

    def test(self, turn: Turn, first: str, second: str, progress: gr.Progress = PROGRESS) -> Any:
        """Both models on the test images."""

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Asking both", unit="images")

        def html() -> str:
            models = self.models.open(first), self.models.open(second)
            return holdout_html(compare_on_holdout(*models, progress=report))

        return turn.unless_overtaken(lambda: or_notice(html), gr.skip())


def comparison_html(picture: Picture, found: Comparison) -> str:
    """Whether both agree, how fast each is, and their probabilities side by side."""
    same = found.first.label == found.second.label
    verdict = f"Both say “{text(found.first.label)}”." if same else "They give different answers."
    return (
        f'<article class="compare"><div class="verdict-row">'
        f'<img src="{picture.preview}" alt="{text(picture.name)}"><div>'
        f'<p class="agree {"right" if same else "wrong"}" data-testid="agreement">{verdict}</p>'
        f"<p>The largest difference of any probability is "
        f"{wording.points(found.max_difference)}. {_speed(found)}</p></div></div>"
        f'<div class="sides">{_side(found.first, "one")}{_side(found.second, "two")}</div>'
        f'<ol class="pairs">{"".join(_pair(found, label) for label in found.labels)}</ol></article>'
    )


def _speed(found: Comparison) -> str:
    slow, fast = found.first, found.second
    faster = "second"
    if slow.latency_ms < fast.latency_ms:
        slow, fast, faster = fast, slow, "first"
    ratio = slow.latency_ms / fast.latency_ms
    if ratio < _SAME_SPEED:
        return "Both are equally fast."
    return f"The {faster} is {ratio:.1f} times as fast on this machine."


def _side(answer: ModelAnswer, kind: str) -> str:
    model = answer.model
    probability = wording.percent(answer.probabilities[answer.label])
    return (
        f'<section class="{kind}"><h3>{text(model.entry.title)}</h3>'
        f'<p class="best"><span class="label">{text(answer.label)}</span>'
        f'<span class="probability">{probability}</span></p>'
        f"<p>Network {wording.milliseconds(answer.latency_ms)}. "
        f"{accuracy_words(model)}</p></section>"
    )


def _pair(found: Comparison, label: str) -> str:
    bars = "".join(
        f'<span class="track {kind}"><span class="fill" style="width:{100 * value:.2f}%"></span>'
        f'</span><span class="value">{wording.percent(value)}</span>'
        for kind, value in (
            ("one", found.first.probabilities.get(label, 0.0)),
            ("two", found.second.probabilities.get(label, 0.0)),
        )
    )
    return f'<li><span class="name">{text(label)}</span>{bars}</li>'


def holdout_html(found: HoldoutComparison) -> str:
    """How often both agree on the test images, whether one is better, and where they differ."""
    both = found.compared
    agreed = round(both.agreement * both.images)
    shown = "".join(
        f'<li><img class="{"tiny" if item.image.shape[0] <= LOSSLESS else ""}" '
        f'src="{picture_uri(item.image)}" '
        f'alt=""><span>{text(item.first)} | {text(item.second)}</span>'
        f"<small>true: {text(item.truth)}</small></li>"
        for item in found.disagreements
    )
    notes = "".join(f"<p>Note: {text(note)}.</p>" for note in found.notes)
    gallery = f'<p>Where they differ (first | second):</p><ul class="thumbs">{shown}</ul>'
    return (
        '<article class="holdout" data-testid="holdout">'
        f"<p><b>They agree on {agreed:,} of {both.images:,} held-out test images</b> "
        f"({wording.percent(both.agreement)}). The first is right on "
        f"{wording.percent(both.old_top1)}, the second on {wording.percent(both.new_top1)}. "
        f"The largest difference of any probability is {wording.points(found.max_difference)}.</p>"
        f"<p>{_verdict(both)}</p>{notes}{_changed_classes(both)}"
        f"{gallery if found.disagreements else ''}</article>"
    )


def _verdict(both: Compared) -> str:
    """Whether the second model is worse, as `python -m runtime compare` judges it."""
    counted = (
        f"{both.worse:,} only the first answers rightly, {both.better:,} only the second"
        f" (McNemar's test: p = {both.p_value:.2g})."
    )
    if both.p_value >= LEVEL:
        return f"No difference beyond chance: {counted}"
    return f"<b>The second is {'worse' if both.is_worse else 'better'} beyond chance</b>: {counted}"


def _changed_classes(both: Compared) -> str:
    """The classes that one model finds more often, the largest loss first."""
    changed = [row for row in both.classes if row.old_recall != row.new_recall]
    changed.sort(key=lambda row: row.new_recall - row.old_recall)
    rows = [
        [
            text(row.name),
            f"{row.images:,}",
            wording.percent(row.old_recall),
            wording.percent(row.new_recall),
        ]
        for row in changed
    ]
    head = ["Class", "Images", "First finds", "Second finds"]
    return html_table(head, rows, caption="Classes that change") if rows else ""
