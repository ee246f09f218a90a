"""`classify --video`: videos that are trimmed, or whose frames come at changing intervals."""

import struct
from pathlib import Path

import numpy as np
import pytest

from runtime import UserError
from runtime.inference.frame_numbers import FrameNumbers
from runtime.inference.stated_frames import last_shown_at
from runtime.inference.video import Video

cv2 = pytest.importorskip("cv2", reason="needs the extra `video`")
NOISE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


def frames(path: Path, every: int = 1) -> list[tuple[int, float]]:
    with Video(str(path), every=every) as video:
        return [(frame.index, frame.seconds) for frame in video]


def written(path: Path, number: int) -> bytearray:
    """A video of `number` frames, 30 a second; its bytes, with the box `moov` at the end."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30.0, (96, 64))
    assert writer.isOpened()
    for shift in range(number):
        writer.write(np.roll(NOISE, 7 * shift, axis=1))
    writer.release()
    return bytearray(path.read_bytes())


def field(content: bytearray, kind: bytes, offset: int) -> tuple[int, int]:
    """Place and value of 32 bits, `offset` bytes behind the name of a box in `moov`."""
    place = content.index(kind, content.rindex(b"moov")) + offset
    return place, struct.unpack_from(">I", content, place)[0]


def trimmed(content: bytearray, number: int, hidden: int, behind: int = 0) -> bytes:
    """The same samples, with an edit list that hides the first and the last ones."""
    place, shown = field(content, b"elst", 12)
    struct.pack_into(">I", content, place, shown * (number - hidden - behind) // number)
    struct.pack_into(">I", content, place + 4, hidden * field(content, b"stts", 16)[1])
    return bytes(content)


def put_in_stbl(content: bytearray, start: int, table: bytes, instead_of: int) -> None:
    """Puts a box at `start`, instead of as many bytes."""
    content[start : start + instead_of] = table
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place, whole = field(content, parent, -4)
        struct.pack_into(">I", content, place, whole + len(table) - instead_of)


def with_intervals(content: bytearray, intervals: list[int]) -> bytes:
    """The same samples, shown for other multiples of 1/30 s."""
    delta = field(content, b"stts", 16)[1]
    entries = b"".join(struct.pack(">II", 1, delta * interval) for interval in intervals)
    start, size = field(content, b"stts", -4)
    table = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(intervals)) + entries
    put_in_stbl(content, start, table, size)
    for kind, offset in ((b"mdhd", 20), (b"elst", 12)):
        place, duration = field(content, kind, offset)
        struct.pack_into(">I", content, place, duration * sum(intervals) // len(intervals))
    return bytes(content)


def matroska(times: list[int]) -> bytes:
    """JPEGs at `times` in ms, as browsers record: without a duration of the file or of a frame."""

    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + struct.pack(">Q", len(content) | 1 << 56) + content

    jpeg = cv2.imencode(".jpg", NOISE)[1].tobytes()
    size = element("B0", b"\x60") + element("BA", b"\x40")
    codec = element("86", b"V_MJPEG") + element("E0", size)
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + codec
    clusters = (
        element("E7", struct.pack(">I", time)) + element("A3", b"\x81\0\0\x80" + jpeg)
        for time in times
    )
    return (
        element("1A45DFA3", element("4282", b"matroska"))
        + bytes.fromhex("18538067" + "01" + "ff" * 7)  # a segment of unknown length
        + element("1549A966", element("2AD7B1", b"\x0f\x42\x40"))  # times are in ms
        + element("1654AE6B", element("AE", track))
        + b"".join(element("1F43B675", cluster) for cluster in clusters)
    )


@pytest.mark.parametrize(("hidden", "behind"), [(5, 0), (15, 0), (5, 15)])
def test_frames_that_an_edit_list_hides_are_not_missing(
    hidden: int, behind: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    content = written(path, 60)
    assert last_shown_at(path) is None
    path.write_bytes(trimmed(content, 60, hidden, behind))
    shown = 60 - hidden - behind
    assert last_shown_at(path) == pytest.approx((shown - 1) / 30, abs=0.001)
    assert [index for index, _ in frames(path)] == list(range(shown))


@pytest.mark.parametrize("end", [None, 12 + 30 + 60])  # the latter is within the pause of 3 s
@pytest.mark.parametrize("offset", [0, 2])  # frames from decoding to showing
def test_a_trimmed_video_ends_with_a_frame_that_is_shown_for_long(
    end: int | None, offset: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp4"
    intervals = [1] * 12 + [1, 2] * 10 + [90] + ([] if end is None else [1, 2] * 10)
    plain = written(path, len(intervals))
    frame = field(plain, b"stts", 16)[1]
    content = bytearray(with_intervals(plain, intervals))
    if offset:
        table, size = field(content, b"stts", -4)
        box = struct.pack(">I4sIIIi", 24, b"ctts", 0, 1, len(intervals), offset * frame)
        put_in_stbl(content, table + size, box, 0)
    place, _ = field(content, b"elst", 12)
    ticks = ((end or sum(intervals)) - 12) * 1000 // 30
    struct.pack_into(">II", content, place, ticks, (12 + offset) * frame)
    path.write_bytes(content)
    assert last_shown_at(path) == pytest.approx(1, abs=0.001)  # its number is 20
    assert [index for index, _ in frames(path)] == list(range(21))


def test_a_trimmed_video_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    content = bytearray(trimmed(written(path, 60), 60, 5))
    start, end = len(content) // 2, content.rindex(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ended after \d+ of 55 frames"):
        frames(path)


@pytest.mark.parametrize("head", [b"", b"\0", b"\0\0\0\x10moov", b"\0\0\0\1moov", b"\0\0\0\0mdat"])
def test_boxes_that_are_damaged_state_nothing(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x0cftypisom" + head)
    assert last_shown_at(path) is None
    assert last_shown_at(tmp_path / "absent.mp4") is None


def test_an_early_pause_is_no_damage(tmp_path: Path) -> None:
    """OpenCV's rate is the mean, 20 a second: the second frame is at 4 / 20 s, the others not."""
    path = tmp_path / "a.mp4"
    path.write_bytes(with_intervals(written(path, 20), [6, 1, 1] + [2] * 5 + [1] * 12))
    found = frames(path)
    assert [index for index, _ in found] == list(range(20))
    assert [seconds for _, seconds in found[:5]] == pytest.approx([0, 0.2, 7 / 30, 8 / 30, 1 / 3])


@pytest.mark.parametrize(
    ("rate", "intervals"),
    [
        (1000.0, [28] * 5 + [39] * 5),  # of a browser
        (30.0, [100, 66, 66, 34, 33, 67, 66, 34, 67, 66]),  # of a camera in the dark
    ],
)
def test_changing_intervals_are_no_damage(
    rate: float, intervals: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "a.mkv"
    times = [int(time) for time in np.cumsum([0, *intervals * 3])]
    path.write_bytes(matroska(times))
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == rate
    found = frames(path)
    assert found == [(number, pytest.approx(time / 1000)) for number, time in enumerate(times)]
    assert frames(path, every=10) == found[::10]


def test_every_counts_the_frames_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    times = [round(number * 1000 / 30) for number in (*range(6), *range(11, 40))]
    path.write_bytes(matroska(times))
    indices: dict[int, list[int]] = {1: [], 10: []}
    for every, found in indices.items():
        with Video(str(path), every=every) as video, pytest.raises(UserError, match="35 of 40"):
            found.extend(frame.index for frame in video)
    assert indices[1] == [*range(6), *range(11, 40)]
    assert indices[10] == indices[1][::10]


def numbered(numbers: FrameNumbers, times: list[float]) -> list[int]:
    found = [frame for seconds in times for frame in numbers.add(seconds)]
    return [number for number, _, _ in found + numbers.rest()]


@pytest.mark.parametrize(
    "places",
    [
        [0, 2, 3, 4, 5, 6],
        [0, 4, 5, 6, 7],
        [1, 2, 3, 4],  # the first one is missing
        [0, 2, 4, 5, 7, 8, 10, *range(11, 40)],
    ],
)
def test_frames_that_are_missing_at_the_start_leave_gaps(places: list[int]) -> None:
    numbers = FrameNumbers(30.0)
    assert numbered(numbers, [place / 30 for place in places]) == places
    assert numbers.missing_of(0, exact=False) == places[-1] + 1


@pytest.mark.parametrize("steps", [[1, 1, 3, 2, 1, 2, 2, 3], [1, 1, 1, 2, 2, 2], [33], [1, 2]])
def test_jumps_that_are_the_rule_leave_no_gaps(steps: list[int]) -> None:
    """Few of them come in the first frames."""
    places = np.cumsum([0, *steps * 8])
    numbers = FrameNumbers(30.0)
    assert numbered(numbers, [place / 30 for place in places]) == list(range(len(places)))
    assert numbers.missing_of(int(places[-1]) + 1, exact=False) == 0
    few = FrameNumbers(30.0)
    assert numbered(few, [0.0, 1.1]) == [0, 1]
    assert few.missing_of(0, exact=False) == 0


def test_frames_wait_for_their_numbers_only_behind_an_early_jump() -> None:
    numbers = FrameNumbers(30.0)
    given = [len(numbers.add(place / 30)) for place in (0, 1, *range(4, 20), 30)]
    assert given == [1, 1, *[0] * 13, 14, 1, 1, 1]


def test_frames_that_cannot_be_decoded_are_missing() -> None:
    numbers = FrameNumbers(30.0)
    assert numbered(numbers, [place / 30 for place in (0, 4, 5, 6, 7)]) == [0, 4, 5, 6, 7]
    assert numbers.missing_of(5, exact=True) == 0  # all that the file states were read
    assert numbers.add(7.5 / 30)[0][0] == 8
    assert numbers.missing_of(0, exact=False) == 0  # jumps are none where times are no grid
    assert numbers.add(8 / 30, decoded=False)[0][0] == 9
    assert numbers.missing_of(0, exact=False) == 7


def test_a_long_pause_hides_no_cut_of_its_length() -> None:
    """The last frame is shown for 1 s at most, and sound may be a quarter of a second longer."""
    numbers = FrameNumbers(1000.0)
    numbered(numbers, [0.0, 4.0, 4.033, 4.07, 4.1])
    assert numbers.missing_of(4100 + 1250, exact=False) == 0
    assert numbers.missing_of(4100 + 1300, exact=False) > 0
    # Nor is it shown for longer than the frames before it.
    steady = FrameNumbers(1000.0)
    numbered(steady, [0.0, 0.033, 0.07, 0.1])
    assert steady.missing_of(100 + 286, exact=False) == 0
    assert steady.missing_of(100 + 288, exact=False) > 0


def test_a_video_says_which_frames_are_missing_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    times = [round(number * 1000 / 30) for number in (0, *range(2, 30))]
    path.write_bytes(matroska(times))
    found = []
    with Video(str(path), every=2) as video, pytest.raises(UserError, match="29 of 30"):
        found.extend((frame.index, frame.seconds, frame.image.shape) for frame in video)
    assert [index for index, _, _ in found] == [0, *range(3, 30, 2)]
    assert [seconds for _, seconds, _ in found] == [
        pytest.approx(index / 30, abs=0.001) for index, _, _ in found
    ]
    assert {shape for _, _, shape in found} == {(64, 96, 3)}
