"""The numbers of a video's frames, though some of them are missing."""

_ON_GRID = 0.1  # of the time between two frames; Matroska rounds times to milliseconds
_JUMPS = 0.25  # of the frames at most come after a jump where frames are missing
_SPARE_S = 0.25  # by which sound may be longer than the pictures
_SPARE_FRAMES = 1  # some writers count one more


class FrameNumbers:
    """Numbers frames by their times in a video of constant rate, else one by one.

    OpenCV does not tell of a frame that is damaged: the next one has a later time. The rate is
    constant as long as times are multiples of 1 / rate and few of them jump over some. Where jumps
    are the rule, the frames come at changing intervals and none is missing.

    Attributes:
        read: how many frames were there.
        last: the number of the newest one; -1 before the first.
    """

    def __init__(self, rate: float) -> None:
        """Starts before the first frame; `rate` is frames a second, 0 if it is not known."""
        self._rate = rate
        self._on_grid = rate > 0
        self._place = -1  # of the newest frame on the grid
        self._jumps = 0
        self._longest = 1  # step from a frame to the next one
        self._lost = 0
        self.read = 0
        self.last = -1

    def next(self, seconds: float) -> tuple[int, float]:
        """Number and time of a frame that is shown at `seconds`, as FFmpeg says."""
        exactly = seconds * self._rate
        place = round(exactly)
        # A video of changing rate leaves the grid soon.
        self._on_grid = self._on_grid and abs(exactly - place) <= _ON_GRID
        self.read += 1
        if self._on_grid and place <= self._place:  # it has lost its time, which is 0 then
            place = self._place + 1
            seconds = place / self._rate
        step = place - self._place
        self._jumps += step > 1
        self._longest = max(step, self._longest)
        self._place = max(place, self._place)
        self.last = self._place if self._is_constant() else self.last + 1
        return self.last, seconds

    def lose(self) -> None:
        """The newest frame cannot be decoded."""
        self.read -= 1
        self._lost += 1

    def missing_of(self, expected: int, *, exact: bool) -> int:
        """How many frames the video has, if some of them are missing; otherwise 0.

        Args:
            expected: how many it is said to have; 0 or less if that is not known.
            exact: whether the file states this number; otherwise it is a duration times the rate.
        """
        if exact and 0 < expected <= self.read:
            return 0
        constant = self._is_constant()
        came = self._place + 1 if constant else self.read + self._lost
        whole = max(expected, came)
        if came > self.read:
            return whole
        if exact:
            return whole if expected - self.read > _SPARE_FRAMES else 0
        # The last frame may be shown for as long as any other one.
        end = max(self.read, self._place + (1 if constant else self._longest))
        spare = max(_SPARE_FRAMES, int(_SPARE_S * self._rate))
        return whole if expected - end > spare else 0

    def _is_constant(self) -> bool:
        return self._on_grid and self._jumps <= _JUMPS * self.read
