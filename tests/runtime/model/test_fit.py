"""What becomes of a picture that is no square: cropped, letterboxed, stretched."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.base.errors import BundleError
from runtime.commands.info import input_words
from runtime.model.bundle import read_card, write_card
from runtime.model.card import FITS, Fit, InputSpec
from runtime.model.card_json import card_from_json, json_from_card
from runtime.model.preprocess import decode_image, fit_image, is_prepared, preprocess

SIZE = 32
MEAN = (0.2, 0.4, 0.8)
FILL = (51, 102, 204)


def spec(fit: Fit, size: int = SIZE, **changes: Any) -> InputSpec:
    values = {"resize": size, "crop": size, "mean": MEAN, "std": (0.3,) * 3, **changes}
    return InputSpec(size=size, fit=fit, **values)


def noise(width: int, height: int, *, grain: int = 4) -> Image.Image:
    """A picture in which every part looks different."""
    shape = (height // grain, width // grain, 3)
    coarse = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reference(image: Image.Image, fit: Fit) -> NDArray[np.uint8]:
    """The three ways, as one would write them with Pillow alone."""
    width, height = image.size
    bilinear = Image.Resampling.BILINEAR
    if fit == "stretch":
        return np.asarray(image.resize((SIZE, SIZE), bilinear))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        cut = image.crop((left, top, left + side, top + side))
        return np.asarray(cut.resize((SIZE, SIZE), bilinear))
    scale = SIZE / max(width, height)
    small = image.resize((round(width * scale), round(height * scale)), bilinear)
    square = Image.new("RGB", (SIZE, SIZE), FILL)
    square.paste(small, ((SIZE - small.width) // 2, (SIZE - small.height) // 2))
    return np.asarray(square)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(192, 64), (64, 192), (100, 60), (52, 8), (20, 28)])
def test_a_picture_is_fitted_as_pillow_alone_would(fit: Fit, size: tuple[int, int]) -> None:
    image = noise(*size)
    found = fit_image(image, spec(fit))
    assert found.shape == (SIZE, SIZE, 3)
    assert found.dtype == np.uint8
    if fit == "crop":  # Pillow's `crop` knows no pixels beyond its box, `box=` does
        assert difference(found, reference(image, fit)) < 2
    else:
        assert np.array_equal(found, reference(image, fit))


def test_only_crop_loses_the_ends_of_a_long_picture() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste((255, 0, 0), (0, 0, 30, 100))
    image.paste((0, 255, 0), (270, 0, 300, 100))
    crop, letterbox, stretch = (fit_image(image, spec(fit)) for fit in FITS)
    assert not crop.any()
    assert np.array_equal(letterbox[0], np.full((SIZE, 3), FILL))
    assert np.array_equal(letterbox[-1], np.full((SIZE, 3), FILL))
    assert letterbox[SIZE // 2, 0].tolist() == [255, 0, 0]
    assert letterbox[SIZE // 2, -1].tolist() == [0, 255, 0]
    shown = (letterbox != FILL).any(axis=(1, 2)).sum()
    assert shown == round(SIZE / 3)
    assert (stretch[:, 0] == [255, 0, 0]).all()
    assert (stretch[:, -1] == [0, 255, 0]).all()


@pytest.mark.parametrize("side", [SIZE, 57, 20])
def test_a_square_looks_the_same_in_each_way(side: int) -> None:
    image = noise(57, 57).resize((side, side))
    crop, letterbox, stretch = (fit_image(image, spec(fit)) for fit in FITS)
    assert np.array_equal(crop, letterbox)
    assert np.array_equal(crop, stretch)


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (2, 1)])
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_the_thinnest_pictures_are_still_shown(fit: Fit, size: tuple[int, int]) -> None:
    found = preprocess(Image.new("RGB", size, (255, 255, 255)), spec(fit))
    assert (found == 255).all(axis=2).sum() >= SIZE


def test_the_fill_becomes_about_zero_in_the_graph() -> None:
    fill = np.array(spec("letterbox").fill) / 255
    assert np.abs((fill - MEAN) / 0.3).max() < 1 / 255 / 0.3
    far = InputSpec(size=8, resize=8, crop=8, mean=(-0.1, 0.5, 1.2), std=(1, 1, 1))
    assert far.fill == (0, 128, 255)


@pytest.mark.parametrize("fit", FITS)
def test_what_is_prepared_passes_unchanged(fit: Fit) -> None:
    """So a letterboxed picture that is prepared again, such as a test image, does not change."""
    once = preprocess(noise(96, 32), spec(fit))
    assert is_prepared(once, spec(fit))
    assert np.array_equal(preprocess(once, spec(fit)), once)
    assert np.array_equal(preprocess(Image.fromarray(once), spec(fit)), once)


@pytest.mark.parametrize(
    ("fit", "decoded"),
    [
        ("crop", (1200, 400)),  # 1/2: 200 pixels high would be below 224
        ("stretch", (1200, 400)),
        ("letterbox", (300, 100)),  # 1/8: 300 pixels wide are enough
    ],
)
def test_a_large_jpeg_is_decoded_as_small_as_each_way_allows(
    fit: Fit, decoded: tuple[int, int]
) -> None:
    content = encoded(noise(2400, 800, grain=40), "JPEG", quality=92)
    wide = spec(fit, 224)
    assert decode_image(content, wide).size == decoded
    full = fit_image(Image.open(io.BytesIO(content)), wide)
    assert difference(preprocess(content, wide), full) < 1
    turned = encoded(noise(800, 2400, grain=40), "JPEG", quality=92)
    assert decode_image(turned, wide).size == decoded[::-1]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("orientation", "turn"), [(6, "ROTATE_90"), (8, "ROTATE_270")])
def test_a_camera_held_upright_is_known_in_each_way(fit: Fit, orientation: int, turn: str) -> None:
    upright = noise(64, 192)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(Image.Transpose[turn])
    content = encoded(stored, "PNG", exif=exif)
    assert np.array_equal(preprocess(content, spec(fit)), preprocess(upright, spec(fit)))


def test_a_margin_is_cut_off_by_crop_alone() -> None:
    assert spec("crop", resize=36).crop == SIZE
    for fit in ("letterbox", "stretch"):
        with pytest.raises(ValueError, match=f"fit {fit} cuts nothing off, and crop 32 is not"):
            spec(fit, resize=36)


def test_the_words_say_what_is_done() -> None:
    assert input_words(spec("crop", resize=36)) == "short side to 36, centre 32, bilinear"
    assert input_words(spec("letterbox")) == (
        "whole picture, long side to 32, the rest of the square #3366cc, bilinear"
    )
    assert input_words(spec("stretch")) == "whole picture, stretched to 32x32, bilinear"


@pytest.mark.parametrize("fit", FITS)
def test_the_card_carries_the_fit(toy_bundle: Path, tmp_path: Path, fit: Fit) -> None:
    card = msgspec.structs.replace(read_card(toy_bundle), input=spec(fit))
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    written = json.loads((tmp_path / "card.json").read_bytes())
    assert written["input"]["fit"] == fit
    # A reader that knows no fits would crop: it must refuse the card, unless crop is right.
    assert (written["schema_version"], written["minimum_reader"]) == (4, 2 if fit == "crop" else 3)


def test_a_card_without_a_fit_means_crop(toy_bundle: Path) -> None:
    values = json.loads(json_from_card(read_card(toy_bundle)))
    del values["input"]["fit"]
    for version in (2, 3):
        values["schema_version"] = version
        assert card_from_json(json.dumps(values), source="card").input.fit == "crop"


def test_an_unknown_fit_is_refused_in_one_line(toy_bundle: Path) -> None:
    values = json.loads(json_from_card(read_card(toy_bundle)))
    values["input"]["fit"] = "squeeze"
    with pytest.raises(BundleError, match=r"Invalid enum value 'squeeze'.*input\.fit") as refused:
        card_from_json(json.dumps(values), source="card.json")
    assert "\n" not in str(refused.value)
