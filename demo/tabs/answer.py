"""The pane Answer: the labels of one picture, where the time went, and what ran."""

import time
from dataclasses import dataclass

from demo.look import wording
from demo.look.markup import notice, text
from demo.service.models import Model
from demo.service.picture import Picture
from runtime.inference.predictions import Predictions

TOP_K = 5
_UNSURE = 0.5
EMPTY = notice(
    "No picture yet",
    "Drop one, paste it with Ctrl + V, take a photo, or click an example.",
    kind="hint",
)


@dataclass(frozen=True)
class TimedAnswer:
    """The labels of a picture, the most probable first.

    Attributes:
        predictions: the labels with their probabilities, at most TOP_K.
        waiting_ms: milliseconds before and after the network, such as for other users' pictures.
        network_ms: milliseconds in which the network ran.
    """

    predictions: Predictions
    waiting_ms: float
    network_ms: float


def ask(model: Model, picture: Picture) -> TimedAnswer:
    """Sends the picture through the batcher that all users share."""
    view = model.view_of(picture)
    started = time.perf_counter()
    (future,) = model.batcher.submit_prepared([view], top_k=TOP_K)
    predictions = future.result()
    taken = time.perf_counter() - started
    network = min(future.network_seconds, taken)
    return TimedAnswer(predictions, 1e3 * (taken - network), 1e3 * network)


def answer_html(model: Model, picture: Picture, answer: TimedAnswer) -> str:
    """The whole content of the pane."""
    best = answer.predictions[0]
    return (
        '<article class="answer">'
        f"{_picture_html(picture)}"
        '<div class="verdict">'
        f'<p class="best"><span class="label" data-testid="label">{text(best.label)}</span>'
        f'<span class="probability">{wording.percent(best.probability)}</span></p>'
        f"{_truth_html(picture, best.label)}{_hedge_html(model, answer.predictions)}"
        f"{_bars_html(answer.predictions)}"
        f"{_latency_html(picture, answer)}"
        f"{_ran_html(model)}"
        "</div></article>"
    )


def _hedge_html(model: Model, predictions: Predictions) -> str:
    """A sentence where the answer is not sure: by the file's threshold, if it has one."""
    threshold = model.classifier.threshold
    if threshold is not None:
        words = threshold.refusal if predictions.accepted is False else ""
    elif predictions[0].probability < _UNSURE:
        words = f"Not sure: no label reaches {wording.percent(_UNSURE)}"
    else:
        words = ""
    return f'<p class="hedge" data-testid="hedge">{text(words)}.</p>' if words else ""


def accuracy_words(model: Model) -> str:
    """A sentence: how often this file or engine is right; the student where it was not tested."""
    if parity := model.classifier.parity:
        return f"Right on {wording.percent(parity.top1)} of {parity.images:,} test images."
    top1 = wording.percent(model.card.provenance.top1)
    return f"As trained, it was right on {top1} of the test images."


def _picture_html(picture: Picture) -> str:
    return (
        f'<figure class="picture"><img src="{picture.preview}" alt="{text(picture.name)}">'
        f'<figcaption title="{text(picture.name)}">{text(picture.name)}</figcaption></figure>'
    )


def _truth_html(picture: Picture, answered: str) -> str:
    """For an example: whether the answer is right."""
    if picture.label is None:
        return ""
    if picture.label == answered:
        return '<p class="truth right">That is right.</p>'
    return f'<p class="truth wrong">The true label is {text(picture.label)}.</p>'


def _bars_html(predictions: Predictions) -> str:
    rows = "".join(
        f'<li><span class="name">{text(p.label)}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * p.probability:.2f}%"></span>'
        f'</span><span class="value">{wording.percent(p.probability)}</span></li>'
        for p in predictions
    )
    return f'<ol class="bars">{rows}</ol>'


def _latency_html(picture: Picture, answer: TimedAnswer) -> str:
    """A strip of four parts, each as long as its share of the time, and a legend."""
    parts = [
        ("decode", "Decode", picture.decode_ms),
        ("resize", "Resize", picture.preprocess_ms),
        ("waiting", "Waiting", answer.waiting_ms),
        ("network", "Network", answer.network_ms),
    ]
    total = sum(value for _, _, value in parts) or 1.0
    strip = "".join(
        f'<span class="{kind}" style="flex-grow:{value / total:.4f}"></span>'
        for kind, _, value in parts
    )
    legend = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd>{wording.milliseconds(value)}</dd></div>'
        for kind, name, value in parts
    )
    return (
        f'<section class="latency" aria-label="Where the time went">'
        f'<p class="total">Answered in <b>{wording.milliseconds(total)}</b></p>'
        f'<div class="strip" aria-hidden="true">{strip}</div><dl>{legend}</dl></section>'
    )


def _ran_html(model: Model) -> str:
    """One line: the student, its precision, where it ran, and how often it is right."""
    return (
        f'<p class="ran">{text(wording.architecture(model.card.arch))}, '
        f"{text(wording.precision(model.classifier.precision))}, "
        f"{text(wording.backend(model.classifier.backend))}. "
        f"{accuracy_words(model)}</p>"
    )
