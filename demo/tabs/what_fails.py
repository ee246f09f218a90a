"""The part of the tab Model card that says what fails: classes, confusions, the worst mistakes."""

from pathlib import Path

from demo.look import wording
from demo.look.markup import html_table, picture_uri, text
from demo.look.panels import or_notice
from demo.service.reports import ClassRow, ErrorRow, Report, read_report
from runtime.model.card import Card

_TALL = 15  # rows from which a table scrolls in itself


def what_fails_html(card: Card, folder: Path) -> str:
    """Tables and pictures of what fails; "" of a bundle that does not say it."""

    def answer() -> str:
        report = read_report(folder, card.class_names)
        return "" if report is None else _report(report)

    return or_notice(answer)


def _report(report: Report) -> str:
    return f"{_classes(report.classes)}{_confused(report)}<h3>Mistakes</h3>{_mistakes(report)}"


def _classes(classes: list[ClassRow]) -> str:
    # Classes without test images come last: nothing is known of them.
    worst_first = sorted(classes, key=lambda row: (row.test == 0, row.recall))
    head = ["Class", "Trained on", "Held out", "Tested on", "Precision", "Recall", "F1"]
    table = html_table(
        head,
        [_class_row(row) for row in worst_first],
        caption="Each class on the test images",
        sorted_by="Recall",
        tall=len(classes) > _TALL,
    )
    return (
        f'{table}<p class="muted">Precision: of the pictures that are taken for this class, how '
        "many are of it. Recall: of the pictures of this class, how many are found. F1 is their "
        "harmonic mean. Click a title to sort.</p>"
    )


def _class_row(row: ClassRow) -> list[str]:
    counts = [_number(count, f"{count:,}") for count in (row.train, row.validation, row.test)]
    if row.test == 0:
        return [text(row.name), *counts, *[_number(-1, "\N{EN DASH}")] * 3]
    figures = (row.precision, row.recall, row.f1)
    return [text(row.name), *counts, *(_number(x, wording.percent(x)) for x in figures)]


def _number(value: float, words: str) -> str:
    """A cell that is sorted by `value`."""
    return f'<data value="{value:g}">{text(words)}</data>'


def _confused(report: Report) -> str:
    if not report.confused:
        return ""
    items = "".join(f"<li>{text(pair.words)}</li>" for pair in report.confused)
    return f'<h3>Most confused</h3><ul class="lines">{items}</ul>'


def _mistakes(report: Report) -> str:
    if not report.count:
        return "<p>None: all test images are answered rightly.</p>"
    sheet = ""
    if report.sheet is not None:
        about = "The most confident mistakes as pictures; the list below says the same in words"
        sheet = f'<img class="sheet" src="{picture_uri(report.sheet)}" alt="{about}">'
    shown = len(report.errors)
    which = "" if shown == report.count else f", the {shown} most confident ones"
    table = html_table(
        ["Picture", "Label", "Taken for", "Probability", "Of the label"],
        [_error_row(row) for row in report.errors],
        caption="The most confident mistakes",
        tall=shown > _TALL,
    )
    return (
        f"{sheet}<details><summary>{report.count:,} wrong answers{which}</summary>{table}</details>"
        '<p class="muted">The most confident mistake comes first. Wrong labels are at the head: a '
        "good model is sure of what such a picture shows.</p>"
    )


def _error_row(row: ErrorRow) -> list[str]:
    return [
        text(row.path),
        text(row.true),
        text(row.predicted),
        wording.percent(row.probability),
        wording.percent(row.true_probability),
    ]
