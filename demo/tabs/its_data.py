"""The card's section on the data: how many pictures, what was left out, and duplicates."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from demo.look.markup import facts_list, html_table, text
from runtime.base.errors import BundleError
from runtime.model.data_report import read_data_report


def data_html(folder: Path) -> str:
    """The content of the section, as HTML; "" if the bundle does not state it."""
    try:
        report = read_data_report(folder)
    except BundleError as error:
        return f'<p class="muted">{text(str(error))}</p>'
    if report is None:
        return ""
    found = report.duplicates
    rows = [
        ("Pictures", f"{report.used:,}"),
        ("Left out", text(_left_out(report.left_out))),
        ("Test pictures that are also in training", f"{found.across_splits:,}"),
        ("Those that nearly are", f"{found.near_across_splits:,}"),
        ("Pictures in several classes", f"{found.across_classes:,}"),
    ]
    counts = [
        [text(counted.name), f"{counted.train:,}", f"{counted.validation:,}", f"{counted.test:,}"]
        for counted in report.classes
    ]
    head = ["Class", "Training", "Validation", "Test"]
    table = html_table(head, counts, caption="Pictures of each class")
    warnings = "".join(f"<li>{text(warning)}</li>" for warning in report.warnings)
    return (
        f"{facts_list(rows)}{f'<ul>{warnings}</ul>' if warnings else ''}"
        f"<details><summary>Pictures of each class</summary>{table}</details>"
    )


def measured_on(folder: Path) -> str:
    """What the figures of the card were measured on, as HTML."""
    with contextlib.suppress(BundleError):  # the section on the data says so
        report = read_data_report(folder)
        if report is not None and report.duplicates.across_splits:
            count = report.duplicates.across_splits
            return f"On test images, of which {count:,} are also among those of training."
    return "On test images that training never saw."


def _left_out(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none"
