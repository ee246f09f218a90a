"""The model card of a bundle with a report in a real browser: the table of classes sorts."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.evaluation.class_report import Answered, write_class_report
from runtime.evaluation.error_sheet import write_error_sheet

APP = Path(__file__).resolve().parents[2] / "demo" / "app.py"
NAMES = ("red", "green", "blue")
SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page(
    toy_bundle: Path, serve_page: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The page on a bundle whose classes have the recalls 90 % (red), 100 % (blue) and 9 %."""
    folder = tmp_path_factory.mktemp("reported")
    bundle = shutil.copytree(toy_bundle, folder / "bundle")
    labels = np.array([0] * 10 + [1] * 11 + [2] * 2)
    predicted = np.array([0] * 9 + [1] + [1] + [2] * 10 + [2] * 2)
    probabilities = np.full((23, 3), 0.1)
    probabilities[np.arange(23), predicted] = 0.8
    answered = Answered(NAMES, labels, probabilities, [f"{n}.png" for n in range(23)])
    write_class_report(bundle, answered, train=np.array([1000, 20, 300]))
    write_error_sheet(
        bundle / "errors.png", answered, lambda row: np.full((8, 8, 3), row, np.uint8)
    )
    with serve_page(APP, bundle, "--port", "0", cwd=folder, temporary=folder / "tmp") as served:
        yield served


def test_a_click_on_a_title_sorts_the_classes(
    page: Any, visit: Callable[..., Any], screenshots: Path
) -> None:
    tab = visit(page.url)
    tab.tab("Model card")
    table = tab.page.locator("table.sorts")

    def column(number: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()

    assert column(1) == ["green", "red", "blue"]  # the one that is found least comes first
    table.get_by_role("button", name="Trained on").click()
    assert column(2) == ["20", "300", "1,000"]
    table.get_by_role("button", name="Trained on").click()
    assert column(2) == ["1,000", "300", "20"]
    assert table.locator("[aria-sort=descending]").inner_text().startswith("Trained on")
    table.get_by_role("button", name="Class").click()
    assert column(1) == ["blue", "green", "red"]
    table.get_by_role("button", name="Recall").press("Enter")
    assert column(1) == ["green", "red", "blue"]
    words = tab.page.locator(".card .lines li").all_inner_texts()
    assert words[0] == "10 of the 11 images of 'green' are taken for 'blue'"
    sheet = tab.page.locator("img.sheet")
    assert sheet.evaluate("image => image.complete && image.naturalWidth") > 1000
    tab.page.get_by_text("11 wrong answers").click()
    assert tab.page.get_by_role("rowheader", name="9.png", exact=True).is_visible()
    tab.page.screenshot(path=screenshots / "what-fails.png", full_page=True)


def test_a_phone_shows_it_without_scrolling_sideways(page: Any, visit: Callable[..., Any]) -> None:
    tab = visit(page.url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    tab.tab("Model card")
    tab.page.locator("img.sheet").wait_for()
    assert not tab.page.evaluate(SCROLLS_SIDEWAYS)
