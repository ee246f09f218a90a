"""The tab Model card: what the model was trained on, how, and how far it can be trusted."""

from collections.abc import Mapping
from pathlib import Path

from demo.look import wording
from demo.look.charts import Line, line_chart
from demo.look.markup import facts_list, html_table, text
from demo.look.panels import panel
from demo.service.models import Models
from demo.tabs.its_data import data_html, measured_on
from demo.tabs.what_fails import what_fails_html
from runtime.model.card import Card, EngineRecord, ModelFile, Provenance

_CLASSES_SHOWN = 60


def build(models: Models) -> None:
    """Lays out the tab for the first model."""
    model = models.first
    panel(card_html(model.card, model.entry.path), script=None)


def card_html(card: Card, folder: Path) -> str:
    """The whole tab.

    Args:
        card: what is shown.
        folder: the bundle, whose files are looked at for their sizes.
    """
    fails, data = what_fails_html(card, folder), data_html(folder)
    return (
        '<article class="card">'
        f"{_section('What it is', _what(card))}"
        f"{_section('How good it is', _quality(card.provenance, measured_on(folder)))}"
        f"{_section('What fails', fails) if fails else ''}"
        f"{_section('Its data', data) if data else ''}"
        f"{_section('Its files', _files(card, folder))}"
        f"{_section('Its engines', _engines(card.engines)) if card.engines else ''}"
        f"{_curves(card.provenance)}"
        f"{_section('How it was trained', _training(card.provenance))}"
        "</article>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{text(title)}</h2>{content}</section>"


def _what(card: Card) -> str:
    provenance = card.provenance
    rows = [
        ("Network", text(wording.architecture(card.arch))),
        ("Size", f"{wording.count(provenance.params)} parameters"),
        ("Work", f"{wording.count(provenance.macs)} multiply-adds a picture"),
        ("Input", text(f"{wording.square(card.input.size)}, colour")),
        ("Pictures", text(wording.fit(card.input.fit))),
        ("Data", text(provenance.data)),
        ("Classes", f"{card.num_classes:,}"),
    ]
    names = "".join(f"<li>{text(name)}</li>" for name in card.class_names[:_CLASSES_SHOWN])
    hidden = card.class_names[_CLASSES_SHOWN:]
    more = ""
    if hidden:
        rest = text(", ".join(hidden))
        more = f"<details><summary>{len(hidden):,} more</summary><p>{rest}</p></details>"
    return f'{facts_list(rows)}<ul class="chips">{names}</ul>{more}'


def _quality(provenance: Provenance, measured_on: str) -> str:
    figures = [
        ("right with its first answer", wording.percent(provenance.top1)),
        ("right within its first five", wording.percent(provenance.top5)),
        ("calibration error (ECE)", wording.percent(provenance.ece)),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in figures
    )
    return (
        f'<dl class="figures">{shown}</dl><p class="muted">{measured_on} '
        "The calibration error says how far, on average, a stated probability is from how often "
        "such answers are right.</p>"
    )


def _files(card: Card, folder: Path) -> str:
    rows = [_file_row(record, folder) for record in card.files]
    if not rows:
        return '<p class="muted">A lone ONNX file: the tests of a bundle are not listed in it.</p>'
    head = ["File", "Size", "Right", "Change", "Agrees", "Largest difference", "Accepts"]
    return (
        f"{html_table(head, rows, caption='Each file against the trained network')}"
        '<p class="muted">Each file was run on held-out test images beside the trained network: '
        "how often it is right, the change of this in points, how often both give the same first "
        "answer, the largest difference of any probability, and how many answers it is sure enough "
        "of.</p>"
        f"{_acceptance(card)}"
    )


def _file_row(record: ModelFile, folder: Path) -> list[str]:
    path = folder / record.path
    size = wording.file_size(path.stat().st_size) if path.is_file() else "missing"
    parity = record.parity
    if parity is None:
        return [text(wording.precision(record.precision)), size, "not tested", "", "", "", ""]
    return [
        text(wording.precision(record.precision)),
        size,
        wording.percent(parity.top1),
        f"{100 * (parity.top1 - parity.reference_top1):+.1f}",
        wording.percent(parity.agreement),
        wording.points(parity.max_difference),
        wording.percent(record.threshold.coverage) if record.threshold else "all",
    ]


def _acceptance(card: Card) -> str:
    """What a threshold promises, or why there is none."""
    thresholds = [file.threshold for file in card.files if file.threshold is not None]
    if thresholds:
        words = (
            "Of the answers that a file accepts, with a probability of "
            f"{thresholds[0].confidence:g} at most {wording.percent(thresholds[0].max_error)} are "
            "wrong, if the pictures show the model's classes, mixed as in its data. It says "
            "nothing of pictures of other things."
        )
    else:
        reasons = [file.no_threshold for file in card.files if file.no_threshold is not None]
        words = f"Every answer counts: {reasons[0]}." if reasons else ""
    return f'<p class="muted" data-testid="acceptance">{text(words)}</p>' if words else ""


def _engines(engines: tuple[EngineRecord, ...]) -> str:
    rows = [
        [
            text(wording.precision(engine.precision)),
            text(f"{wording.backend(engine.flavor)} {engine.tensorrt_version}"),
            text(engine.gpu_name or f"compute capability {', '.join(engine.compute_capability)}"),
            f"{engine.profile.min} to {engine.profile.max}",
            wording.percent(engine.parity.top1) if engine.parity else "not run yet",
        ]
        for engine in engines
    ]
    return html_table(["Engine", "Built with", "For", "Batch", "Right"], rows, caption="Engines")


def _curves(provenance: Provenance) -> str:
    history = provenance.history
    if not history:
        return ""
    loss = Line("loss", [(point.epoch, point.loss) for point in history])
    top1 = Line("accuracy", [(p.epoch, p.top1) for p in history if p.top1 is not None])
    charts = [line_chart([loss], title="Loss", x_name="epoch", words=lambda y: f"{y:g}")]
    if top1.points:
        charts.append(
            line_chart([top1], title="Accuracy", x_name="epoch", words=lambda y: f"{100 * y:.4g} %")
        )
    return _section("How training went", f'<div class="charts">{"".join(charts)}</div>')


def _training(provenance: Provenance) -> str:
    rows = [
        ("Epochs", f"{provenance.epochs:,}"),
        ("Seed", str(provenance.seed)),
        ("Run", text(provenance.run)),
    ]
    return (
        f"<p>With {text(wording.terms(provenance.terms))}.</p>"
        f"{facts_list(rows)}{_details('The complete recipe', provenance.recipe)}"
        f"{_details('Versions', provenance.versions)}"
    )


def _details(title: str, values: Mapping[str, object]) -> str:
    if not values:
        return ""
    rows = [(name, text(value)) for name, value in _flatten(values)]
    return f"<details><summary>{text(title)}</summary>{facts_list(rows)}</details>"


def _flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """The values of nested mappings, each with its dotted name."""
    rows: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
