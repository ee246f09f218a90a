"""Work that takes long, and what its user does meanwhile: the last wish is what is shown.

Each test lets the second event come while the first one is worked on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from demo.look.panels import Turn
from demo.service.models import LIMITS, Models
from demo.service.picture import Picture, open_picture
from demo.tabs import compare, many, why

FP32, FP16 = "0:onnx-cpu:fp32", "0:onnx-cpu:fp16"
Meanwhile = Callable[[Any, str, Callable[[], Any]], list[Any]]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """`meanwhile(module, name, event)`: the event comes in the next call of that function."""

    def prepare(module: Any, name: str, event: Callable[[], Any]) -> list[Any]:
        function, found = getattr(module, name), []

        def called(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(module, name, function)
            found.append(event())
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, called)
        return found

    return prepare


def opened(models: Models, file: Path) -> Picture:
    return open_picture(file.read_bytes(), models.input_specs, name=file.name, limits=LIMITS)


def test_work_that_is_asked_for_while_the_same_is_done_is_not_dropped(toy_page: Any) -> None:
    """By default, "once", Gradio's script in the browser drops it."""
    config = httpx.get(f"{toy_page.url}/config").json()
    panels = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    modes: dict[str, set[str]] = {}
    for event in config["dependencies"]:
        for output in event["outputs"]:
            modes.setdefault(panels.get(output), set()).add(event["trigger_mode"])
    assert modes["why"] == {"always_last"}
    assert modes["compared"] == {"always_last"}
    assert modes["tested"] == {"always_last", "multiple"}
    assert modes["grid"] == {"multiple"}


@pytest.mark.parametrize("first", ["show", "look_at"])
def test_an_explanation_that_was_overtaken_is_not_shown(
    first: str, models: Models, pictures: Path, meanwhile: Meanwhile
) -> None:
    red, green = (opened(models, pictures / name) for name in ("red.png", "green.jpg"))
    clicks, turn = why._WhyClicks(models), Turn()
    found = meanwhile(why, "explain", lambda: clicks.show(why.NAME, turn, green, True, FP32))
    if first == "show":
        assert clicks.show(why.NAME, turn, red, True, FP32) == (gr.skip(), gr.skip())
    else:
        assert clicks.look_at(0, turn, red, True, FP32) == gr.skip()
    assert "What “green” depends on" in found[0][1]
    assert "What “red” depends on" in clicks.show(why.NAME, turn, red, True, FP32)[1]


def test_a_comparison_that_was_overtaken_is_not_shown(
    models: Models, pictures: Path, meanwhile: Meanwhile
) -> None:
    red, green = (opened(models, pictures / name) for name in ("red.png", "green.jpg"))
    clicks, turn = compare._CompareClicks(models), Turn()

    def show(picture: Picture) -> Any:
        return clicks.show(compare.NAME, turn, picture, True, FP32, FP16)

    found = meanwhile(compare, "compare_on_picture", lambda: show(green))
    assert show(red) == gr.skip()
    assert "Both say “green”." in found[0]


def test_a_test_of_models_that_are_no_longer_chosen_is_not_shown(
    models: Models, meanwhile: Meanwhile
) -> None:
    clicks, turn = compare._CompareClicks(models), Turn()
    emptied = meanwhile(compare, "compare_on_holdout", lambda: clicks.forget_test(turn))
    assert clicks.test(turn, FP32, FP16) == gr.skip()
    assert emptied == [""]
    assert "They agree on 24 of 24" in clicks.test(turn, FP16, FP32)


def test_pictures_that_are_added_meanwhile_are_answered_with_those_before(
    models: Models, pictures: Path, meanwhile: Meanwhile
) -> None:
    payload = [{"path": str(pictures / name)} for name in ("red.png", "green.jpg")]
    clicks, turn = many._ManyClicks(models), Turn()
    found = meanwhile(many, "classify_many", lambda: clicks.answer(payload, FP32, turn))
    assert clicks.answer(payload[:1], FP32, turn) == (gr.skip(), None)
    assert "2 answered" in found[0][0]
