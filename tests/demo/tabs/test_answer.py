"""Asking the model that all users share, without a browser."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from demo.service.models import LIMITS, Models
from demo.service.picture import Upload, open_picture
from demo.tabs.answer import answer_html, ask
from demo.tabs.many import batch_html, classify_many, csv_text
from runtime.model.card import Threshold


def test_the_pages_batcher_answers_as_the_classifier_does(models: Models, pictures: Path) -> None:
    """This holds for a model that cuts its images, too: the page must not cut them twice."""
    spec = msgspec.structs.replace(models.first.card.input, resize=40)
    picture = open_picture(
        (pictures / "red.png").read_bytes(), [spec], name="red.png", limits=LIMITS
    )
    answered = models.first.batcher.submit_prepared([picture.views[spec]])[0].result()
    expected = models.first.classifier.session.run(picture.views[spec][None])[0]
    assert [p.probability for p in answered] == pytest.approx(sorted(expected, reverse=True))


def test_the_time_of_the_network_is_that_of_its_run(
    models: Models, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another picture holds the network, a picture waits. That is not the network's time."""
    session = models.first.classifier.session
    held, run = 0.3, session._run

    def slow(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(held if images[0].max() == 0 else 0.05)
        return run(images)

    monkeypatch.setattr(session, "_run", slow)
    red = (pictures / "red.png").read_bytes()
    picture = open_picture(red, models.input_specs, name="red.png", limits=LIMITS)
    size = session.input_size
    (other,) = models.first.batcher.submit_prepared([np.zeros((size, size, 3), np.uint8)])
    while models.first.batcher._ready:
        time.sleep(0.001)
    answer = ask(models.first, picture)
    other.result(timeout=20)
    assert 50 <= answer.network_ms < 200
    assert answer.waiting_ms > 100
    shown = answer_html(models.first, picture, answer)
    for word in ("Decode", "Resize", "Waiting", "Network"):
        assert f"<dt>{word}</dt>" in shown


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


def test_an_answer_below_the_threshold_is_said_to_be_unsure(
    models: Models, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.first.card.input
    red = (pictures / "red.png").read_bytes()
    picture = open_picture(red, [spec], name="red.png", limits=LIMITS)
    coverage = {"confidence": 0.9, "coverage": 0.834, "images": 200, "max_error": 0.05}
    for probability, refused in ((1.0, True), (0.5, False)):
        threshold = Threshold(probability=probability, **coverage)
        monkeypatch.setattr(models.first.classifier, "threshold", threshold)
        answer = ask(models.first, picture)
        assert answer.predictions.accepted is not refused
        words = "Not sure enough: at 5 % errors it answers 83 % of such pictures."
        assert (words in answer_html(models.first, picture, answer)) is refused
    upload = Upload(pictures / "red.png", "red.png")
    batch = classify_many(models.first, [upload], progress=lambda *_: None)
    assert csv_text(batch).splitlines()[1].split(",")[3] == "true"
    assert "not sure enough" not in batch_html(batch)
