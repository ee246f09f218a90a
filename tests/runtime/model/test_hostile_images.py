"""Whatever arrives is answered or refused as an ImageError, in bounded time and memory."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import Batcher, ImageError, open_classifier
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess

# Pillow warns of damaged EXIF data and goes on, as it should.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SPEC = InputSpec(size=32, resize=36, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SECONDS_AN_IMAGE = 10  # the largest takes 1.2 s on an idle core
FUZZ_CASES = 10_000 if os.environ.get("SKD_EDGE_NIGHTLY") else 500


def named(error: ImageError) -> bool:
    """False, after a look at the message."""
    assert str(error).startswith("hostile: ")
    assert not re.search("Truncated File|cannot identify|unknown format|decoder", str(error))
    return False


def answered(content: bytes) -> bool:
    """Whether the image was accepted; fails on anything but an answer or an ImageError."""
    started = time.perf_counter()
    try:
        image = preprocess(content, SPEC, name="hostile")
    except ImageError as error:
        return named(error)
    finally:
        assert time.perf_counter() - started < SECONDS_AN_IMAGE
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    return True


def test_whole_images_are_answered(whole: dict[str, bytes]) -> None:
    assert all(answered(content) for content in whole.values())


def test_hostile_images_are_answered_or_refused(hostile: dict[str, bytes]) -> None:
    assert len(hostile) >= 300
    answers = {name: answered(content) for name, content in hostile.items()}
    assert not any(ok for name, ok in answers.items() if name.startswith("text"))
    for bomb in (
        "jpeg of 50000 scans",
        "plain jpeg of 50000 scans",
        "bmp of 8000 short run lengths",
        "png of 30000x8000 in 30 kB",
        "baseline.jpg of 65535x65535",
        "gif of 200000 comments",
        "gif of a comment of 1000000 parts",
        "gif of 65535x65535",
        "tiff of 65535x65535",
        "tiff of 60000 strips",
        "tiff of 8000 tags",
        "tiff of compression 34925",
        "tiff whose strip lies outside",
        "tiff whose strips have no end",
    ):
        assert not answers[bomb]
    assert answers["junk after baseline.jpg"]
    for large in (
        "jpeg of 150 scans",
        "motion photo of 14 MB",
        "tiff of 9x9",
        "tiff of 1000 strips",
        "tiff of 7900x7900 in 60 kB",
        "gif of 8000x7900 in 100 kB",
        "avif of 5000x5000 in 1 kB",
    ):
        assert answers[large], large


MEASURE = """
import re, sys, warnings
from pathlib import Path
from runtime import ImageError, Limits
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess
warnings.simplefilter("ignore")
spec = InputSpec(size=32, resize=36, crop=32, mean=(0, 0, 0), std=(1, 1, 1))

def peak():
    # Not getrusage: its peak is inherited from the process that started this one.
    found = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024

before = peak()  # the interpreter with its packages: 34 to 47 MB, by NumPy's version
for path in map(Path, sys.argv[1:]):
    try:
        preprocess(path, spec)
    except ImageError:
        pass
print(peak() - before)
"""


def test_bombs_stay_within_memory(hostile: dict[str, bytes], tmp_path: Path) -> None:
    bombs = [name for name in hostile if " in " in name or "MB" in name or "run lengths" in name]
    assert len(bombs) >= 5
    for i, name in enumerate(bombs):
        (tmp_path / f"{i}.png").write_bytes(hostile[name])
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=True,
    )
    # 64 million pixels of RGB are 192 MB.
    assert int(finished.stdout) < 316


def test_the_next_image_is_answered(hostile: dict[str, bytes], toy_bundle: Path) -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    names = list(hostile)[::7]
    with open_classifier(toy_bundle) as classifier, Batcher(classifier, max_queue=1000) as batcher:
        futures = [batcher.submit(hostile[name], name=name) for name in names]
        good = batcher.submit(red)
        outcomes = [future.exception(timeout=60) for future in futures]
        assert {type(error) for error in outcomes} <= {type(None), ImageError}
        assert good.result(timeout=60)[0].label == "red"


@settings(
    max_examples=FUZZ_CASES,
    deadline=SECONDS_AN_IMAGE * 1000,
    derandomize=not os.environ.get("SKD_EDGE_NIGHTLY"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_fuzzed_images_are_answered_or_refused(
    data: st.DataObject, whole: dict[str, bytes]
) -> None:
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    edits = st.tuples(st.integers(0, len(content) - 1), st.binary(min_size=1, max_size=8))
    for place, piece in data.draw(st.lists(edits, max_size=6)):
        content[place : place + len(piece)] = piece
    cut = data.draw(st.integers(0, len(content)))
    again = data.draw(st.integers(0, cut))
    answered(bytes(content[:cut] + content[again:]))
