"""The page on a student that the test run has trained, as a user sees it after three commands."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]
APP = Path(__file__).resolve().parents[2] / "demo" / "app.py"


@pytest.fixture(scope="module")
def digits_page(
    trained_bundle: Path,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    serve_page: Callable[..., Any],
) -> Iterator[Any]:
    """`python demo/app.py` without arguments, in the folder of the run."""
    assert trained_bundle.is_dir()
    folder = tmp_path_factory.mktemp("digits-page")
    with serve_page(APP, "--port", "0", cwd=workspace, temporary=folder / "tmp") as served:
        assert served.printed[0].startswith("model: runs/digits-mobilenetv2-drg+dsr")
        yield served


def test_every_example_digit_is_read(
    digits_page: Any, visit: Open, trained_bundle: Path, screenshots: Path
) -> None:
    tab = visit(digits_page.url)
    for digit in "0123456789":
        tab.upload(trained_bundle / "examples" / f"{digit}.png")
        tab.page.locator("#answer figcaption", has_text=f"{digit}.png").wait_for()
        assert tab.label() == digit
    tab.page.wait_for_timeout(300)
    tab.page.screenshot(path=screenshots / "page.png")


@pytest.mark.alone
def test_the_first_label_comes_within_a_second_of_the_upload(
    digits_page: Any, visit: Open, trained_bundle: Path
) -> None:
    """From the choice of the file to the label on the screen, for the best of three new visitors.

    The best, since other work on the machine can only make it later.
    """
    seconds = []
    for _ in range(3):
        tab = visit(digits_page.url)
        tab.page.wait_for_selector("#picture-input input[type=file]", state="attached")
        started = time.perf_counter()
        tab.upload(trained_bundle / "examples" / "8.png")
        assert tab.label() == "8"
        seconds.append(time.perf_counter() - started)
        tab.page.close()
    print(f"first label after {seconds} s")
    assert min(seconds) < 1


def test_why_and_compare_work_on_the_real_student(
    digits_page: Any, visit: Open, screenshots: Path
) -> None:
    tab = visit(digits_page.url)
    tab.page.get_by_role("button", name="Example: 3").click()
    assert tab.label() == "3"
    tab.tab("Why")
    tab.page.locator("[data-testid=heat-map]").wait_for()
    tab.page.wait_for_timeout(300)
    tab.page.screenshot(path=screenshots / "why.png")
    tab.tab("Compare")
    tab.page.locator("[data-testid=agreement]").wait_for()
    tab.page.get_by_role("button", name="Compare them on the test images").click()
    tested = tab.page.locator("[data-testid=holdout]")
    tested.wait_for(timeout=60_000)
    assert "of 360 held-out test images" in tested.inner_text()
    tab.page.screenshot(path=screenshots / "compare.png", full_page=True)


def test_the_card_shows_how_training_went(digits_page: Any, visit: Open, screenshots: Path) -> None:
    tab = visit(digits_page.url)
    tab.tab("Model card")
    assert tab.page.locator(".card .chart svg").count() == 2
    card = tab.page.inner_text(".card")
    assert "DRG + DSR" in card
    assert "fp16" in card
    assert "int8 (CPU)" in card
    tab.page.get_by_text("The complete recipe").click()
    assert "learning_rate" in tab.page.inner_text(".card")
    tab.page.screenshot(path=screenshots / "card.png", full_page=True)
