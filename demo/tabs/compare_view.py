"""A comparison as people see it."""

from demo.look import words
from demo.look.markup import LOSSLESS, notice, picture_uri, text
from demo.service.picture import Picture
from demo.tabs.classify import accuracy_words
from demo.tabs.compare import Comparison, HoldoutComparison, Side

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
_SAME_SPEED = 1.1  # ratios below this are noise


def comparison_html(picture: Picture, found: Comparison) -> str:
    same = found.first.label == found.second.label
    verdict = f"Both say “{text(found.first.label)}”." if same else "They give different answers."
    return (
        f'<article class="compare"><div class="verdict-row">'
        f'<img src="{picture.preview}" alt="{text(picture.name)}"><div>'
        f'<p class="agree {"right" if same else "wrong"}" data-testid="agreement">{verdict}</p>'
        f"<p>The largest difference of any probability is {words.points(found.max_difference)}. "
        f"{_speed(found)}</p></div></div>"
        f'<div class="sides">{_side(found.first, "one")}{_side(found.second, "two")}</div>'
        f'<ol class="pairs">{"".join(_pair(found, label) for label in found.labels)}</ol></article>'
    )


def _speed(found: Comparison) -> str:
    slow, fast = found.first, found.second
    names = "first", "second"
    if slow.latency_ms < fast.latency_ms:
        slow, fast, names = fast, slow, ("second", "first")
    ratio = slow.latency_ms / fast.latency_ms
    if ratio < _SAME_SPEED:
        return "Both are equally fast."
    return f"The {names[1]} is {ratio:.1f} times as fast on this machine."


def _side(side: Side, kind: str) -> str:
    model = side.model
    return (
        f'<section class="{kind}"><h3>{text(model.choice.words)}</h3>'
        f'<p class="best"><span class="label">{text(side.label)}</span>'
        f'<span class="probability">{words.percent(side.probabilities[side.label])}</span></p>'
        f"<p>Network {words.milliseconds(side.latency_ms)}. "
        f"{accuracy_words(model)}</p></section>"
    )


def _pair(found: Comparison, label: str) -> str:
    bars = "".join(
        f'<span class="track {kind}"><span class="fill" style="width:{100 * value:.2f}%"></span>'
        f'</span><span class="value">{words.percent(value)}</span>'
        for kind, value in (
            ("one", found.first.probabilities.get(label, 0.0)),
            ("two", found.second.probabilities.get(label, 0.0)),
        )
    )
    return f'<li><span class="name">{text(label)}</span>{bars}</li>'


def holdout_html(found: HoldoutComparison) -> str:
    """Agreement on the test images, and those on which they differ."""
    agreed = round(found.agreement * found.num_images)
    shown = "".join(
        f'<li><img class="{"tiny" if item.image.shape[0] <= LOSSLESS else ""}" '
        f'src="{picture_uri(item.image)}" '
        f'alt=""><span>{text(item.first)} | {text(item.second)}</span>'
        f"<small>true: {text(item.truth)}</small></li>"
        for item in found.differences
    )
    gallery = f'<p>Where they differ (first | second):</p><ul class="thumbs">{shown}</ul>'
    return (
        '<article class="holdout" data-testid="holdout">'
        f"<p><b>They agree on {agreed:,} of {found.num_images:,} held-out test images</b> "
        f"({words.percent(found.agreement)}). The first is right on "
        f"{words.percent(found.first_top1)}, the second on {words.percent(found.second_top1)}. "
        f"The largest difference of any probability is {words.points(found.max_difference)}.</p>"
        f"{gallery if found.differences else ''}</article>"
    )
