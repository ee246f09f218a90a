"""The numbers of a video's frames, though some of them are missing."""

_ON_GRID = 0.1  # of the time between two frames; Matroska rounds times to milliseconds
_SPARE_S = 0.25  # by which sound may be longer than the pictures
_SPARE_FRAMES = 1  # some writers count one more


class FrameNumbers:
    """Numbers frames by their times as long as those are multiples of 1 / rate, else one by one.

    OpenCV does not tell of a frame that is damaged: the next one has a later time.

    Attributes:
        read: how many frames were there.
        last: the number of the newest one; -1 before the first.
    """

    def __init__(self, rate: float) -> None:
        """Starts before the first frame; `rate` is frames a second, 0 if it is not known."""
        self._rate = rate
        self._constant = rate > 0
        self.read = 0
        self.last = -1

    def next(self, seconds: float) -> tuple[int, float]:
        """Number and time of a frame that is shown at `seconds`, as FFmpeg says."""
        place = seconds * self._rate
        number = round(place)
        # A video of changing rate leaves the grid soon. From then on its frames are counted.
        self._constant = self._constant and abs(place - number) <= _ON_GRID
        self.read += 1
        lost_its_time = self._constant and number <= self.last  # the time is 0 then
        self.last = number if self._constant and not lost_its_time else self.last + 1
        return self.last, self.last / self._rate if lost_its_time else seconds

    def lose(self) -> None:
        """The newest frame cannot be decoded."""
        self.read -= 1

    def missing_of(self, expected: int, *, exact: bool) -> int:
        """How many frames the video has, if some of them are missing; otherwise 0.

        Args:
            expected: how many it is said to have; 0 or less if that is not known.
            exact: whether the file states this number; otherwise it is estimated by the duration.
        """
        spare = _SPARE_FRAMES if exact else max(_SPARE_FRAMES, int(_SPARE_S * self._rate))
        whole = max(expected, self.last + 1)
        skipped = self.last + 1 - self.read
        return whole if skipped or whole - self.read > spare else 0
