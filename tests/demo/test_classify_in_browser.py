"""One picture in a real browser: every way to send it, and what can go wrong."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Open = Callable[..., Any]

# Pastes or drops a file, as a user would with the clipboard or the mouse.
DISPATCH = """([kind, encoded, name]) => {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector("h1").dispatchEvent(event);
}"""


# When its webcam opens, Gradio asks for the progress of an upload that does not exist. The
# console may say so at any later moment.
OF_THE_WEBCAM = ("Failed to load resource: the server responded with a status of 404", "Response")


@pytest.mark.parametrize(("name", "label"), [("red.png", "red"), ("green.jpg", "green")])
def test_an_uploaded_picture_gets_its_label(
    toy_page: Any, visit: Open, pictures: Path, name: str, label: str
) -> None:
    tab = visit(toy_page.url)
    tab.upload(pictures / name)
    assert tab.label() == label
    shown = tab.page.locator("#answer .bars li")
    assert shown.count() == 3  # the toy has three classes
    values = [float(text.strip(" %\u202f<>")) for text in shown.locator(".value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(100, abs=0.2)
    latency = tab.page.inner_text("#answer .latency")
    for part in ("Decode", "Resize", "Network", "ms"):
        assert part in latency
    ran = tab.page.inner_text("#answer .ran")
    assert "fp32" in ran
    assert "ONNX Runtime, CPU" in ran
    assert "100.0\u202f% of 24 test images" in ran


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_may_be_pasted_or_dropped_anywhere(
    toy_page: Any, visit: Open, pictures: Path, kind: str
) -> None:
    tab = visit(toy_page.url)
    tab.page.wait_for_selector("#picture-input input[type=file]", state="attached")
    encoded = base64.b64encode((pictures / "blue.webp").read_bytes()).decode()
    tab.page.evaluate(DISPATCH, [kind, encoded, "sky.webp"])
    assert tab.label() == "blue"
    assert tab.page.inner_text("#answer figcaption") == "sky.webp"


def test_a_photo_is_taken_with_the_webcam(toy_page: Any, visit: Open) -> None:
    tab = visit(toy_page.url, permissions=["camera"])
    tab.forgiven = OF_THE_WEBCAM
    tab.page.get_by_label("Capture from camera").click()
    tab.page.get_by_text("Click to Access Webcam").click()
    tab.page.wait_for_function(
        "document.querySelector('#picture-input video')?.videoWidth > 0 "
        "&& document.querySelector('#picture-input video').currentTime > 0"
    )
    tab.page.get_by_label("capture photo").click()
    assert tab.label() in ("red", "green", "blue")


def test_from_the_webcam_one_comes_back_to_uploads(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.forgiven = OF_THE_WEBCAM
    tab.page.get_by_label("Capture from camera").click()
    tab.page.get_by_text("Click to Access Webcam").wait_for()
    tab.page.get_by_label("Upload file").click()
    tab.page.get_by_text("Drop a picture here").wait_for()
    tab.upload(pictures / "blue.webp")
    assert tab.label() == "blue"


@pytest.mark.parametrize(
    ("host", "script", "shown"),
    [
        ("127.0.0.1", "", [True, True]),
        ("page.test", "", [False, False]),  # at http, a browser gives it neither
        ("127.0.0.1", "MediaDevices.prototype.enumerateDevices = async () => []", [False, True]),
    ],
)
def test_only_what_the_browser_can_do_is_offered(
    toy_page: Any, visit: Open, pictures: Path, host: str, script: str, shown: list[bool]
) -> None:
    tab = visit(toy_page.url.replace("127.0.0.1", host))
    tab.page.add_init_script(script)
    tab.page.reload()
    tab.page.get_by_label("Upload file").wait_for()
    ways = ("Capture from camera", "Paste from clipboard")
    assert [tab.page.get_by_label(way).is_visible() for way in ways] == shown
    tab.upload(pictures / "red.png")
    assert tab.label() == "red"


def test_an_example_is_answered_and_judged(toy_page: Any, visit: Open) -> None:
    tab = visit(toy_page.url)
    tab.page.get_by_role("button", name="Example: green").click()
    assert tab.label() == "green"
    assert tab.page.inner_text("#answer .truth") == "That is right."


def test_the_keyboard_is_enough(toy_page: Any, visit: Open) -> None:
    tab = visit(toy_page.url)
    example = tab.page.get_by_role("button", name="Example: blue")
    example.wait_for()
    for _ in range(30):
        tab.page.keyboard.press("Tab")
        if example.evaluate("element => element === document.activeElement"):
            break
    outline = example.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid", "the focused button must be visible"
    tab.page.keyboard.press("Enter")
    assert tab.label() == "blue"


def test_a_broken_file_gets_a_message_and_the_next_one_an_answer(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    for name, reason in (
        ("text.jpg", "not a readable image"),
        ("empty.png", "is empty"),
        ("cut.jpg", "not a readable image"),
    ):
        tab.upload(pictures / name)
        message = tab.page.locator("#answer .notice.error", has_text=name)
        assert reason in message.inner_text()
        assert message.get_attribute("role") == "alert"
        tab.upload(pictures / "green.jpg")
        assert tab.label() == "green"


def test_what_is_no_picture_or_too_large_is_refused_in_the_browser(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    for name, message in (
        ("huge.jpg", "larger than 16 MB; send a smaller file"),
        ("notes.txt", "Invalid file type"),
    ):
        tab.upload(pictures / name)
        tab.page.get_by_text(message).wait_for()
        tab.upload(pictures / "green.jpg")
        assert tab.label() == "green"
    tab.complaints.clear()  # Gradio writes such refusals to the console too


def test_a_picture_that_follows_quickly_is_answered_too(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.page.wait_for_selector("#picture-input input[type=file]", state="attached")
    tab.page.get_by_role("button", name="Example: red").click()
    tab.page.get_by_role("button", name="Example: blue").click()
    tab.page.locator("#answer .label", has_text="blue").wait_for()


@pytest.mark.parametrize("last", ["an example", "another model"])
def test_a_slow_picture_does_not_come_after_what_was_clicked_later(
    toy_page: Any, visit: Open, tmp_path: Path, last: str
) -> None:
    large = tmp_path / "large.png"  # takes a second to decode
    Image.new("RGB", (7000, 7000), (200, 60, 60)).save(large, compress_level=1)
    tab = visit(toy_page.url)
    tab.page.get_by_role("button", name="Example: green").click()
    assert tab.label() == "green"
    with tab.page.expect_request(lambda request: "large.png" in (request.post_data or "")):
        tab.upload(large)
    if last == "an example":
        tab.page.get_by_role("button", name="Example: blue").click()
    else:
        tab.page.get_by_label("Runs on").click()
        tab.page.get_by_role("option", name="fp16, ONNX Runtime, CPU").click()
    tab.page.wait_for_timeout(5000)
    expected = ("blue.png", "fp32") if last == "an example" else ("large.png", "fp16")
    assert tab.page.inner_text("#answer figcaption") == expected[0]
    assert expected[1] in tab.page.inner_text("#answer .ran")
    tab.page.get_by_text("Drop a picture here").wait_for()  # the box is free again


def test_another_precision_answers_the_same_picture(
    toy_page: Any, visit: Open, pictures: Path
) -> None:
    tab = visit(toy_page.url)
    tab.upload(pictures / "red.png")
    assert "fp32" in tab.page.inner_text("#answer .ran")
    tab.page.get_by_label("Runs on").click()
    tab.page.get_by_role("option", name="fp16, ONNX Runtime, CPU").click()
    tab.page.locator("#answer .ran", has_text="fp16").wait_for()
    assert tab.label() == "red"


def test_a_file_name_is_text_and_never_markup(
    toy_page: Any, visit: Open, pictures: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "<img src=x onerror=document.title='owned'>.png"
    hostile.write_bytes((pictures / "red.png").read_bytes())
    tab = visit(toy_page.url)
    tab.upload(hostile)
    assert tab.label() == "red"
    assert tab.page.inner_text("#answer figcaption").startswith("<img src=x")
    assert tab.page.title() == "SKD Edge: toy"


def test_two_users_at_once_see_their_own(toy_page: Any, visit: Open, pictures: Path) -> None:
    first, second = visit(toy_page.url), visit(toy_page.url)
    same = {first: ("red.png", "red"), second: ("blue.webp", "blue")}
    for tab in same:
        tab.page.wait_for_selector("#picture-input input[type=file]", state="attached")
    for tab, (name, _) in same.items():
        tab.upload(pictures / name)
    for tab, (name, label) in same.items():
        assert tab.label() == label
        assert tab.page.inner_text("#answer figcaption") == name
    # Two uploads of the same file lie at one place. Neither user may take the file from the other.
    for tab in same:
        tab.upload(pictures / "green.jpg")
    for tab in same:
        tab.page.locator("#answer .label", has_text="green").wait_for()
    third = visit(toy_page.url)
    third.tab("Why")
    assert "No picture yet" in third.page.inner_text("#why")
