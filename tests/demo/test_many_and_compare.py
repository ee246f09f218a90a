"""Many pictures and comparisons, on the real runtime and without a browser."""

import base64
import csv
import io
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import demo.service.models
from demo.service.comparison import compare_on_holdout, compare_on_picture
from demo.service.models import LIMITS, Models
from demo.service.picture import PREVIEW, Upload, open_picture
from demo.tabs.answer import ask
from demo.tabs.compare import comparison_html
from demo.tabs.examples import find_examples
from demo.tabs.many import batch_html, classify_many, csv_text
from runtime.base.errors import BackendError, BundleError, ImageError, UserError
from runtime.inference.classifier import Classifier
from runtime.model.bundle import read_card, write_card
from runtime.model.card import example_names


@pytest.fixture(scope="module")
def models(toy_bundle: Path) -> Iterator[Models]:
    opened = Models([toy_bundle])
    yield opened
    opened.close()


def test_the_menu_begins_with_the_best_and_refuses_what_it_does_not_hold(models: Models) -> None:
    assert [key for _, key in models.menu] == ["0:onnx-cpu:fp32", "0:onnx-cpu:fp16"]
    assert models.rival == "0:onnx-cpu:fp16"
    assert models.open("0:onnx-cpu:fp32") is models.first, "opened once, shared by all"
    with pytest.raises(UserError, match="not offered here"):
        models.open("../../etc/passwd")


def test_users_of_an_open_model_do_not_wait_while_another_is_opened(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([toy_bundle])
    begun, may_go_on = threading.Event(), threading.Event()
    really_open = demo.service.models.open_classifier

    def slow_open(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert may_go_on.wait(20)
        return really_open(*arguments, **options)

    monkeypatch.setattr(demo.service.models, "open_classifier", slow_open)
    with ThreadPoolExecutor(2) as users:
        try:
            slow = users.submit(models.open, "0:onnx-cpu:fp16")
            assert begun.wait(20)
            assert users.submit(models.open, "0:onnx-cpu:fp32").result(20) is models.first
        finally:
            may_go_on.set()
        assert models.open("0:onnx-cpu:fp16") is slow.result(20)
    models.close()


def test_a_model_that_does_not_warm_up_gives_its_memory_back(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([toy_bundle])
    closed = []
    really_close = Classifier.close

    def out_of_memory(_: Classifier) -> None:
        raise BackendError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(Classifier, "warm_up", out_of_memory)
        broken.setattr(Classifier, "close", lambda self: (closed.append(self), really_close(self)))
        with pytest.raises(BackendError, match="out of memory"):
            models.open("0:onnx-cpu:fp16")
    assert [classifier.precision for classifier in closed] == ["fp16"]
    models.close()


def test_examples_have_the_label_they_were_written_for(tmp_path: Path) -> None:
    """Also where labels differ only in what a file's name cannot have."""
    names = ("C", "C++", "C#", "c", "a b", "a_b", "C-1")
    (tmp_path / "examples").mkdir()
    for name in example_names(names):
        (tmp_path / "examples" / f"{name}.png").touch()
    models = SimpleNamespace(
        paths=[tmp_path], entries=[SimpleNamespace(card=SimpleNamespace(class_names=names))]
    )
    found = {example.path.stem: example.label for example in find_examples(models)}
    assert found == dict(zip(example_names(names), names, strict=True))
    assert len(found) == len(names)


def test_a_lone_onnx_file_has_a_page_too(toy_bundle: Path) -> None:
    alone = Models([toy_bundle / "model.onnx"])
    try:
        assert [key for _, key in alone.menu] == ["0:onnx-cpu:fp32"]
        assert alone.rival == "0:onnx-cpu:fp32"
    finally:
        alone.close()


def test_the_pages_batcher_answers_as_the_classifier_does(models: Models, pictures: Path) -> None:
    """Also for a model that cuts its images: the page must not cut them twice."""
    spec = msgspec.structs.replace(models.first.card.input, resize=40)
    picture = open_picture(
        (pictures / "red.png").read_bytes(), [spec], name="red.png", limits=LIMITS
    )
    answered = models.first.batcher.submit_prepared([picture.views[spec]])[0].result()
    expected = models.first.classifier.session.run(picture.views[spec][None])[0]
    assert [p.probability for p in answered] == pytest.approx(sorted(expected, reverse=True))


def test_all_users_share_one_batcher_and_get_their_own_answer(
    models: Models, pictures: Path
) -> None:
    sizes: list[int] = []
    models.first.batcher.observers.append(lambda size, _: sizes.append(size))
    files = {"red": "red.png", "green": "green.jpg", "blue": "blue.webp"}
    opened = {
        label: open_picture(
            (pictures / name).read_bytes(), models.input_specs, name=name, limits=LIMITS
        )
        for label, name in files.items()
    }
    users = [label for label in files for _ in range(8)]
    with ThreadPoolExecutor(len(users)) as pool:
        answers = list(pool.map(lambda label: ask(models.first, opened[label]), users))
    assert [answer.predictions[0].label for answer in answers] == users
    assert sum(sizes) == len(users)


def test_broken_pictures_do_no_harm_to_the_others(models: Models, pictures: Path) -> None:
    names = ["red.png", "text.jpg", "huge.jpg", "gone.png", "blue.webp"]
    reports: list[tuple[int, int]] = []
    uploads = [Upload(pictures / name, name) for name in names]
    batch = classify_many(models.first, uploads, progress=lambda *done: reports.append(done))
    labels = [item.predictions[0].label if item.predictions else None for item in batch.items]
    assert labels == ["red", None, None, None, "blue"]
    assert [item.problem for item in batch.items][1:4] == [
        "text.jpg: not a readable image (unknown format); expected JPEG, PNG, WebP or BMP",
        "huge.jpg: larger than 16 MB; send a smaller file",
        "gone.png: did not arrive; send it again",
    ]
    assert reports == [(5, 5)]
    assert "2 answered" in batch_html(batch)


def test_the_csv_file_holds_no_formula_and_the_grid_no_markup(
    models: Models, pictures: Path
) -> None:
    hostile = ["=HYPERLINK(0)", "+1", "@x", "<script>alert(1)</script>", 'a"b,c\nd']
    uploads = [Upload(pictures / "red.png", name) for name in hostile]
    batch = classify_many(models.first, uploads, progress=lambda *_: None)
    rows = list(csv.DictReader(io.StringIO(csv_text(batch))))
    assert [row["file"] for row in rows] == ["'=HYPERLINK(0)", "'+1", "'@x", *hostile[3:]]
    assert "<script" not in batch_html(batch)


def test_a_comparison_counts_agreement_on_the_test_images(
    models: Models, toy_bundle: Path, pictures: Path
) -> None:
    first, second = models.first, models.open(models.rival)
    content = (pictures / "green.jpg").read_bytes()
    picture = open_picture(content, models.input_specs, name="green.jpg", limits=LIMITS)
    found = compare_on_picture(first, second, picture)
    assert found.first.label == found.second.label == "green"
    assert set(found.labels) == {"red", "green", "blue"}
    assert 0 < found.max_difference < 1e-3  # float16 against float32
    assert "Both say “green”." in comparison_html(picture, found)
    with np.load(toy_bundle / "holdout.npz") as holdout:
        images = holdout["images"]
        one = first.classifier.session.run(images)
        two = second.classifier.session.run(images)
    tested = compare_on_holdout(first, second, progress=lambda *_: None)
    assert tested.num_images == len(images)
    assert tested.agreement == (one.argmax(1) == two.argmax(1)).mean()
    assert tested.max_difference == pytest.approx(np.abs(one - two).max(), abs=1e-7)


def test_two_models_of_one_name_can_be_told_apart(toy_bundle: Path, tmp_path: Path) -> None:
    for seed in ("a", "b"):
        shutil.copytree(toy_bundle, tmp_path / seed / "digits-s0" / "bundle")
        (tmp_path / seed / "latest").symlink_to("digits-s0")
    (tmp_path / "b" / "digits-s0").rename(tmp_path / "b" / "digits-s1")
    (tmp_path / "b" / "latest").unlink()
    (tmp_path / "b" / "latest").symlink_to("digits-s1")

    def names(*paths: Path) -> list[str]:
        models = Models([tmp_path / path for path in paths])
        models.close()
        return list(dict.fromkeys(words.partition(": ")[0] for words, _ in models.menu))

    assert names(Path("a/latest"), Path("b/digits-s1")) == ["latest", "digits-s1"]
    assert names(Path("a/latest"), Path("b/latest")) == ["digits-s0", "digits-s1"]
    assert names(Path("a/latest"), Path("a/latest")) == ["1. latest", "2. latest"]


def test_models_of_different_classes_are_compared_by_name(
    toy_bundle: Path, tmp_path: Path, pictures: Path
) -> None:
    other = tmp_path / "other" / "bundle"
    shutil.copytree(toy_bundle, other)
    card = read_card(other)
    write_card(other, msgspec.structs.replace(card, class_names=("rouge", "green", "blue")))
    models = Models([toy_bundle, other])
    try:
        assert models.rival == "1:onnx-cpu:fp32"
        assert "other: fp32, ONNX Runtime, CPU" in dict(models.menu)
        first, second = models.first, models.open(models.rival)
        content = (pictures / "red.png").read_bytes()
        picture = open_picture(content, models.input_specs, name="red.png", limits=LIMITS)
        found = compare_on_picture(first, second, picture)
        assert (found.first.label, found.second.label) == ("red", "rouge")
        assert "They give different answers." in comparison_html(picture, found)
        with pytest.raises(UserError, match="no test images in common"):
            compare_on_holdout(first, second, progress=lambda *_: None)
    finally:
        models.close()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_holdout_is_one_clear_line(
    content: bytes, toy_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    (bundle / "holdout.npz").write_bytes(content)
    models = Models([bundle])
    try:
        with pytest.raises(BundleError, match=r"holdout\.npz cannot be read"):
            compare_on_holdout(models.first, models.open(models.rival), progress=lambda *_: None)
    finally:
        models.close()


def test_what_is_kept_of_a_picture_is_small_and_upright(models: Models, tmp_path: Path) -> None:
    photo = Image.new("RGB", (1600, 1200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo.save(tmp_path / "photo.jpg", exif=exif)
    content = (tmp_path / "photo.jpg").read_bytes()
    picture = open_picture(content, models.input_specs, name="photo.jpg", limits=LIMITS)
    (view,) = picture.views.values()
    assert view.shape == (32, 32, 3)
    assert len(picture.preview) < 20_000
    shown = Image.open(io.BytesIO(base64.b64decode(picture.preview.partition(",")[2])))
    assert shown.size == (PREVIEW * 3 // 4, PREVIEW)
    assert picture.decode_ms > 0
    with pytest.raises(ImageError, match="bad: not a readable image"):
        open_picture(b"GIF89a", models.input_specs, name="bad", limits=LIMITS)
