"""What the page makes of an upload: one decode, small views, and the exact input of the network."""

import base64
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageFile

from demo.service.models import LIMITS, Models
from demo.service.picture import PREVIEW, open_picture
from demo.tabs.answer import ask
from runtime.base.errors import ImageError
from runtime.inference.batcher import Batcher
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess
from runtime.server.api import build_api


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


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The size of every picture whose pixels were decoded, in order."""
    seen: list[tuple[int, int]] = []
    really_decode = ImageFile.ImageFile.load

    def load(self: ImageFile.ImageFile) -> Any:
        if self.tile:  # it has pixels that are not decoded yet
            seen.append(self.size)
        return really_decode(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    return seen


@pytest.mark.parametrize(
    ("size", "width", "height", "kind", "decoded"),
    [
        (32, 640, 480, "PNG", [(640, 480)]),
        (32, 640, 480, "WEBP", [(640, 480)]),
        (32, 60, 40, "JPEG", [(60, 40)]),
        (32, 4000, 3000, "JPEG", [(500, 375)]),
        (224, 640, 480, "JPEG", [(320, 240)]),
        (224, 300, 240, "JPEG", [(300, 240)]),
        (224, 4000, 3000, "JPEG", [(500, 375)]),
    ],
)
def test_an_upload_is_decoded_once(
    decodes: list[tuple[int, int]],
    size: int,
    width: int,
    height: int,
    kind: str,
    decoded: list[tuple[int, int]],
) -> None:
    spec = InputSpec(size=size, resize=size, crop=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    content = encoded(photo(width, height), kind)
    decodes.clear()
    picture = open_picture(content, [spec], name="photo", limits=LIMITS)
    assert decodes == decoded
    decodes.clear()
    assert (picture.views[spec] == preprocess(content, spec)).all()
    assert len(decodes) == 1


@pytest.mark.parametrize("before", [b"", b"\r\n"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_gives_every_model_the_pixels_of_the_other_ways(
    kind: str, before: bytes
) -> None:
    """Also where another program put bytes before a JPEG."""
    specs = [
        InputSpec(size=size, resize=size, crop=size, mean=(0.0,) * 3, std=(1.0,) * 3)
        for size in (32, 224)
    ]
    content = (before if kind == "JPEG" else b"") + encoded(photo(640, 480), kind)
    picture = open_picture(content, specs, name="photo", limits=LIMITS)
    for spec in specs:
        assert (picture.views[spec] == preprocess(content, spec)).all()


def test_the_preview_of_a_jpeg_with_broken_metadata_is_shown() -> None:
    spec = InputSpec(size=32, resize=32, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    jpeg = encoded(photo(640, 480), "JPEG")
    # XResolution as a text, which Pillow does not expect.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x1a\0\x02\0\0\0\x0472.0" + bytes(9)
    content = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    picture = open_picture(content, [spec], name="photo", limits=LIMITS)
    shown = Image.open(io.BytesIO(base64.b64decode(picture.preview.partition(",")[2])))
    assert shown.size == (PREVIEW, PREVIEW * 3 // 4)


def test_a_jpeg_that_is_reduced_below_its_preview_is_decoded_for_the_preview_too(
    decodes: list[tuple[int, int]],
) -> None:
    """The network gets what the other ways give it, and the preview is sharp."""
    spec = InputSpec(size=32, resize=32, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    content = encoded(photo(640, 480), "JPEG")
    decodes.clear()
    picture = open_picture(content, [spec], name="photo.jpg", limits=LIMITS)
    assert decodes == [(80, 60), (640, 480)]
    assert (picture.views[spec] == preprocess(content, spec)).all()
    shown = Image.open(io.BytesIO(base64.b64decode(picture.preview.partition(",")[2])))
    assert shown.size == (PREVIEW, PREVIEW * 3 // 4)


def test_two_inputs_of_one_picture_share_its_decode(decodes: list[tuple[int, int]]) -> None:
    specs = [
        InputSpec(size=size, resize=size, crop=size, mean=(0.0,) * 3, std=(1.0,) * 3)
        for size in (32, 96)
    ]
    content = encoded(photo(640, 480), "PNG")
    decodes.clear()
    picture = open_picture(content, specs, name="photo.png", limits=LIMITS)
    assert decodes == [(640, 480)]
    for spec in specs:
        assert (picture.views[spec] == preprocess(content, spec)).all()


@pytest.mark.parametrize("name", ["red.png", "green.jpg", "blue.webp"])
def test_the_page_the_command_and_http_give_the_same_numbers(
    models: Models,
    toy_bundle: Path,
    pictures: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    name: str,
) -> None:
    content = (pictures / name).read_bytes()
    picture = open_picture(content, models.input_specs, name=name, limits=LIMITS)
    page = ask(models.first, picture).predictions
    arguments = ("-m", "runtime", "classify", toy_bundle, pictures / name, "--json")
    line = command(*arguments, cwd=tmp_path, check=True).stdout
    with Batcher(models.first.classifier) as batcher, TestClient(build_api(batcher)) as client:
        headers = {"Content-Type": "application/octet-stream"}
        answer = client.post("/v1/classify", content=content, headers=headers)
    http = answer.json()["results"][0]["predictions"]
    assert msgspec.to_builtins(page) == json.loads(line)["predictions"] == http
