"""Pieces of HTML: nothing that a user supplies becomes markup."""

import numpy as np

from demo.look.markup import LOSSLESS, html_table, notice, picture_uri, text


def test_texts_are_escaped_everywhere() -> None:
    hostile = "\"><script>alert('x')</script>"
    for html in (
        notice(hostile, hostile),
        text(hostile),
        html_table([hostile], [], caption=hostile),
    ):
        assert "<script" not in html
        assert '"><' not in html.replace('"><t', "").replace('"><s', "").replace('"><p', "")


def test_a_small_picture_is_kept_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert picture_uri(pixels).startswith("data:image/png;base64,")
    large = np.zeros((8, LOSSLESS + 1, 3), np.uint8)
    assert picture_uri(large).startswith("data:image/webp;base64,")
    assert picture_uri(large, quality=None).startswith("data:image/png;base64,")
