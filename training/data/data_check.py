"""The check of a data set before it is trained on: what is said, and what stops a training."""

from dataclasses import dataclass
from pathlib import Path

from runtime.base.files import write_atomic
from runtime.model.data_report import DataReport, data_report_json
from runtime.model.locate import DATA_REPORT
from training.data.data_report import left_out_words, report_on, write_pairs
from training.data.dataset import Dataset
from training.data.inspection import Inspection, inspect_images
from training.data.leaks import check_leaks, without_leaks
from training.data.load import data_names
from training.data.loading_progress import report

PAIRS = "duplicates.csv"


@dataclass(frozen=True)
class DataCheck:
    """A data set, what was found in its images, and what is said of it."""

    dataset: Dataset
    inspection: Inspection
    report: DataReport

    def say(self) -> None:
        """Prints it in short: a line, and one for each warning."""
        found, left_out = self.report.duplicates, self.report.left_out
        report(
            f"checked {self.report.used:,} images: {found.across_splits:,} test images are also in "
            f"train, {found.near_across_splits:,} nearly; left out: {left_out_words(left_out)}"
        )
        for warning in self.report.warnings:
            report(f"warning: {warning}")

    def write(self, folder: Path) -> Path | None:
        """Writes `data.json`, and the pairs of duplicates to a file that is returned, if any."""
        write_atomic(folder / DATA_REPORT, data_report_json(self.report))
        pairs = folder / PAIRS
        return pairs if write_pairs(pairs, self.dataset, self.inspection) else None


def checked_data(
    dataset: Dataset, data: str, *, drop: str, allow: bool, progress: bool = True
) -> DataCheck:
    """Checks the data that `load_dataset` gave, and leaves out what it is asked to.

    Args:
        dataset: the whole data set.
        data: what `--data` was. Published data sets are told of their duplicates and never stopped.
        drop: "none", "exact" or "near", as in `without_leaks`.
        allow: whether many test images may be in train, too.
        progress: whether to show how far the work is.

    Raises:
        UserError: as `check_leaks` and `without_leaks`.
    """
    kept = without_leaks(dataset, drop, progress=progress)
    inspection = inspect_images(kept, progress=progress)
    if data not in data_names() and not allow:
        check_leaks(kept, inspection, where=data)
    return DataCheck(kept, inspection, report_on(kept, inspection))
