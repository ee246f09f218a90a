"""The head of the page: which model this is, and how good."""

from demo.look import words
from demo.look.markup import text
from runtime.model.card import Card

# Class names in the sentence: all, or a few of many.
_ALL_SHOWN = 10
_SOME_SHOWN = 6


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
    shown = len(names) if len(names) <= _ALL_SHOWN else _SOME_SHOWN
    rest = f", and {len(names) - shown:,} more" if len(names) > shown else ""
    listed = ", ".join(names[:shown])
    return f"A compact network that tells {len(names):,} classes apart: {listed}{rest}."
