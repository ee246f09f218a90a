"""Why, Compare, Many, Model card and Benchmark in a real browser, on a desktop and a phone."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]
TABS = ("Classify", "Many", "Model card", "Benchmark")


def test_why_shows_a_heat_map_of_the_present_picture(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.tab("Why")
    assert "No picture yet" in tab.page.inner_text("#why")
    tab.upload(pictures / "red.png")
    heat = tab.page.locator("#why [data-testid=heat-map] img.heat")
    first = heat.get_attribute("src")
    assert "What “red” depends on" in tab.page.inner_text("#why")
    assert "257 times" in tab.page.inner_text("#why")
    tab.page.get_by_label("Look at another label").click()
    tab.page.get_by_role("option", name="blue").click()
    tab.page.get_by_text("What “blue” depends on").wait_for()
    assert heat.get_attribute("src") != first
    tab.upload(pictures / "green.jpg")  # the pane follows the picture
    tab.page.get_by_text("What “green” depends on").wait_for()


# Watches the smallest height of the card, and counts every progress text that lies outside of it.
WATCH = """() => {
  const card = document.querySelector("#ask-answer");
  const box = (element) => element.getBoundingClientRect();
  window.seen = { least: Infinity, progress: 0, outside: 0 };
  const look = () => {
    seen.least = Math.min(seen.least, box(card).height);
    for (const text of card.querySelectorAll(".progress-text")) {
      const inside = box(text).top >= box(card).top && box(text).bottom <= box(card).bottom;
      seen.progress += 1;
      seen.outside += inside ? 0 : 1;
    }
    requestAnimationFrame(look);
  };
  look();
}"""


def test_the_card_keeps_its_place_while_a_pane_is_worked_for(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.upload(pictures / "red.png")
    assert tab.label() == "red"
    tab.page.evaluate(WATCH)
    tab.tab("Why")
    tab.page.locator("#why [data-testid=heat-map]").wait_for()
    tab.tab("Compare")
    tab.page.locator("[data-testid=agreement]").wait_for()
    tab.page.get_by_role("button", name="Compare them on the test images").click()
    tab.page.locator("[data-testid=holdout]").wait_for()
    seen = tab.page.evaluate("seen")
    assert seen["least"] >= 500
    assert seen["progress"] > 0
    assert seen["outside"] == 0


def test_compare_asks_both_files_the_same(toy_page: Any, visit: Open, pictures: Path) -> None:
    tab = visit(toy_page.url)
    tab.upload(pictures / "blue.webp")
    assert tab.label() == "blue"
    tab.tab("Compare")
    assert tab.page.inner_text("[data-testid=agreement]") == "Both say “blue”."
    sides = tab.page.locator("#compared h3").all_inner_texts()
    assert sides == ["fp32, ONNX Runtime, CPU", "fp16, ONNX Runtime, CPU"]
    assert tab.page.inner_text("#compared").count("ms") >= 2
    tab.page.get_by_role("button", name="Compare them on the test images").click()
    tested = tab.page.inner_text("[data-testid=holdout]")
    assert "agree on 24 of 24 held-out test images" in tested


def test_many_pictures_make_a_grid_and_a_csv_file(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.tab("Many")
    names = ["red.png", "text.jpg", "green.jpg", "blue.webp"]
    files = [pictures / name for name in names]
    tab.page.set_input_files("#pictures-input input[type=file]", files)
    tab.page.locator("#grid .summary").wait_for()
    assert "3 answered" in tab.page.inner_text("#grid .summary")
    assert "1 could not be read" in tab.page.inner_text("#grid .summary")
    assert tab.page.locator("#grid .label").all_inner_texts() == ["red", "green", "blue"]
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    assert download.value.suggested_filename == "labels.csv"
    assert [row["file"] for row in rows] == names
    assert [row["label"] for row in rows] == ["red", "", "green", "blue"]
    assert "not a readable image" in rows[1]["problem"]
    assert all(0 < float(row["probability"]) <= 1 for row in rows if row["label"])


def test_the_card_says_what_it_is_and_how_good(toy_page: Any, visit: Open) -> None:
    tab = visit(toy_page.url)
    tab.tab("Model card")
    card = tab.page.inner_text(".card")
    for fact in (
        "colours",
        "32\u202f\u00d7\u202f32\u202fpx",
        "red\ngreen\nblue",
        "calibration error",
    ):
        assert fact in card
    rows = tab.page.locator(".card tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["fp32", "fp16"]
    assert "100.0\u202f%" in rows[0]


def test_the_benchmark_measures_every_file_and_draws_it(toy_page: Any, visit: Open) -> None:
    tab = visit(toy_page.url)
    tab.tab("Benchmark")
    assert "Not measured yet" in tab.page.inner_text("#benchmark")
    tab.page.get_by_role("button", name="Measure on this machine").click()
    tab.page.get_by_text("Measuring").wait_for()
    tab.page.locator("[data-measured='2']").wait_for(timeout=60_000)
    assert tab.page.locator("#benchmark .chart li").count() == 4
    rows = tab.page.locator("#benchmark tbody tr").all_inner_texts()
    assert [row.split(",")[0] for row in rows] == ["fp32", "fp16"]
    assert all(row.count("ms") >= 6 for row in rows)
    advice = tab.page.inner_text("#benchmark .advice")
    assert advice.startswith("Use “fp")
    assert "ONNX Runtime, CPU”" in advice


SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def test_a_phone_shows_everything_without_scrolling_sideways(
    toy_page: Any, visit: Open, pictures: Path, screenshots: Path
) -> None:
    tab = visit(
        toy_page.url,
        viewport={"width": 390, "height": 844},
        device_scale_factor=2,
        is_mobile=True,
        has_touch=True,
    )
    tab.upload(pictures / "red.png")
    assert tab.label() == "red"
    box = tab.page.locator("#picture-input").bounding_box()
    answer = tab.page.locator("#answer").bounding_box()
    assert 0 <= answer["y"] - (box["y"] + box["height"]) < 150, "the answer follows the box"
    for name in ("Answer", "Why", "Compare"):
        tab.tab(name)
        tab.page.wait_for_timeout(300)
        tab.page.screenshot(path=screenshots / f"phone-{name.lower()}.png")
        assert not tab.page.evaluate(SCROLLS_SIDEWAYS), name
    first, second = (tab.page.locator(f"#{name}").bounding_box() for name in ("first", "second"))
    assert second["y"] >= first["y"] + first["height"], "there is no room side by side"
    for name in TABS[1:]:
        tab.tab(name)
        tab.page.wait_for_timeout(300)
        tab.page.screenshot(path=screenshots / f"phone-{name.lower().replace(' ', '-')}.png")
        assert not tab.page.evaluate(SCROLLS_SIDEWAYS), name


# Every piece of our own text whose contrast to its background is below WCAG's limit.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll(".skd *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.offsetParent) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgba(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio >= (large ? 3 : 4.5)) continue;
    found.push(`${ratio.toFixed(2)} ${element.textContent.trim().slice(0, 40)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_readable_in_light_and_dark(
    toy_page: Any, visit: Open, pictures: Path, screenshots: Path, scheme: str
) -> None:
    tab = visit(toy_page.url, color_scheme=scheme)
    background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 245, 242)", "dark": "rgb(16, 19, 20)"}[scheme]
    tab.tab("Many")
    files = [pictures / "red.png", pictures / "text.jpg"]
    tab.page.set_input_files("#pictures-input input[type=file]", files)
    tab.page.locator("#grid .summary").wait_for()
    tab.tab("Classify")
    tab.page.get_by_role("button", name="Example: green").click()
    assert tab.label() == "green"
    for outer, inner in [("Classify", "Answer"), ("Classify", "Why"), ("Classify", "Compare")] + [
        (name, None) for name in TABS[1:]
    ]:
        tab.tab(outer)
        if inner:
            tab.tab(inner)
        tab.page.wait_for_timeout(400)
        name = (inner or outer).lower().replace(" ", "-")
        tab.page.screenshot(path=screenshots / f"{scheme}-{name}.png")
        assert tab.page.evaluate(CONTRAST) == [], (outer, inner)
