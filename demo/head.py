"""The head of the page: which model this is, and how good."""

from demo import words
from demo.markup import text
from runtime.card import Card

_SHOWN = 6  # class names in the sentence


def head_html(card: Card) -> str:
    """Name of the student, what it tells apart, and three figures."""
    provenance = card.provenance
    figures = [
        ("right on test images", words.percent(provenance.top1)),
        ("parameters", words.count(provenance.params)),
        ("input", words.square(card.input.size)),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in figures
    )
    return (
        '<header class="head"><div class="brand"><small>SKD Edge</small>'
        f"<h1>{text(words.model(card))}</h1><p>{text(_classes(card.class_names))}</p></div>"
        f'<dl class="figures">{shown}</dl></header>'
    )


def _classes(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:_SHOWN])
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"A compact network that tells {len(names)} classes apart: {listed}{rest}."
