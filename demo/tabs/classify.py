"""One picture, one answer: labels with probabilities, where the time went, and what ran."""

import time
from dataclasses import dataclass

from demo.look import words
from demo.look.markup import notice, text
from demo.service.models import Model
from demo.service.picture import Picture
from runtime.inference.classifier import Predictions

TOP_K = 5
UNSURE = 0.5
EMPTY = notice(
    "No picture yet",
    "Drop one, paste it with Ctrl + V, take a photo, or click an example.",
    kind="hint",
)


@dataclass(frozen=True)
class Answer:
    """Labels from the most probable downwards; `network_ms` includes the wait for a batch."""

    predictions: Predictions
    network_ms: float


def ask(model: Model, picture: Picture) -> Answer:
    """Sends the picture through the batcher that all users share."""
    view = picture.views[model.card.input]
    started = time.perf_counter()
    predictions = model.batcher.submit(view, top_k=TOP_K).result()
    return Answer(predictions, 1e3 * (time.perf_counter() - started))


def answer_html(model: Model, picture: Picture, answer: Answer) -> str:
    """The whole card of an answer."""
    best = answer.predictions[0]
    unsure = (
        f'<p class="hedge">Not sure: no label reaches {words.percent(UNSURE)}.</p>'
        if best.probability < UNSURE
        else ""
    )
    return (
        '<article class="answer">'
        f"{picture_html(picture)}"
        '<div class="verdict">'
        f'<p class="best"><span class="label" data-testid="label">{text(best.label)}</span>'
        f'<span class="probability">{words.percent(best.probability)}</span></p>'
        f"{truth_html(picture, best.label)}{unsure}"
        f"{bars_html(answer.predictions)}"
        f"{latency_html(picture, answer.network_ms)}"
        f"{ran_html(model)}"
        "</div></article>"
    )


def picture_html(picture: Picture) -> str:
    return (
        f'<figure class="picture"><img src="{picture.preview}" alt="{text(picture.name)}">'
        f'<figcaption title="{text(picture.name)}">{text(picture.name)}</figcaption></figure>'
    )


def truth_html(picture: Picture, answered: str) -> str:
    """For an example: whether the answer is right."""
    if picture.label is None:
        return ""
    if picture.label == answered:
        return '<p class="truth right">That is right.</p>'
    return f'<p class="truth wrong">The true label is {text(picture.label)}.</p>'


def bars_html(predictions: Predictions) -> str:
    rows = "".join(
        f'<li><span class="name">{text(p.label)}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * p.probability:.2f}%"></span>'
        f'</span><span class="value">{words.percent(p.probability)}</span></li>'
        for p in predictions
    )
    return f'<ol class="bars">{rows}</ol>'


def latency_html(picture: Picture, network_ms: float) -> str:
    """A strip of three parts, each as long as its share of the time, and a legend."""
    parts = [
        ("decode", "Decode", picture.decode_ms),
        ("resize", "Resize", picture.preprocess_ms),
        ("network", "Network", network_ms),
    ]
    total = sum(value for _, _, value in parts) or 1.0
    strip = "".join(
        f'<span class="{kind}" style="flex-grow:{value / total:.4f}"></span>'
        for kind, _, value in parts
    )
    legend = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd>{words.milliseconds(value)}</dd></div>'
        for kind, name, value in parts
    )
    return (
        f'<section class="latency" aria-label="Where the time went">'
        f'<p class="total">Answered in <b>{words.milliseconds(total)}</b></p>'
        f'<div class="strip" aria-hidden="true">{strip}</div><dl>{legend}</dl></section>'
    )


def ran_html(model: Model) -> str:
    """One line: the student, its precision, where it ran, and how good it is."""
    return (
        f'<p class="ran">{text(words.architecture(model.card.arch))}, '
        f"{text(words.precision(model.classifier.precision))}, "
        f"{text(words.backend(model.classifier.backend))}. "
        f"{accuracy_words(model)}</p>"
    )


def accuracy_words(model: Model) -> str:
    """How often this file or engine is right; the student itself, where it was not tested."""
    if parity := model.classifier.parity:
        return f"Right on {words.percent(parity.top1)} of {parity.images:,} test images."
    top1 = words.percent(model.card.provenance.top1)
    return f"As trained, it was right on {top1} of the test images."
