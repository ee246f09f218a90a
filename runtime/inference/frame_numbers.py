"""The numbers of a video's frames, though some of them are missing."""

from typing import Any

_ON_GRID = 0.1  # of the time between two frames; Matroska rounds times to milliseconds
_JUMPS = 0.25  # of the frames at most come after a jump where frames are missing
_SURE = 16  # frames tell whether jumps are the rule
_LAST_S = 1.0  # for which the last frame is shown at most
_SPARE_S = 0.25  # by which sound may be longer than the pictures
_SPARE_FRAMES = 1  # some writers count one more

Numbered = list[tuple[int, float, Any]]  # number, seconds and image of each frame


class FrameNumbers:
    """Numbers frames by their times in a video of constant rate, else one by one.

    OpenCV does not tell of a frame that is damaged: the next one has a later time. The rate is
    constant as long as times are multiples of 1 / rate and few of them jump over some. Where jumps
    are the rule, the frames come at changing intervals and none is missing. One jump among the
    first frames does not tell which it is, so the frames from it on wait for the 16th one.

    Times alone cannot tell everything. If more than a quarter of the frames come after a jump,
    frames that are missing are not found. If frames come at changing multiples of 1 / rate with
    fewer jumps than that, they are numbered as if some were missing. In a video of fewer than four
    frames, no jump is taken for missing frames.

    Attributes:
        read: how many frames were there.
        last: the newest number that was given; -1 before the first.
    """

    def __init__(self, rate: float) -> None:
        """Starts before the first frame; `rate` is frames a second, 0 if it is not known."""
        self._rate = rate
        self._on_grid = rate > 0
        self._place = -1  # of the newest frame on the grid
        self._jumps = 0
        self._longest = 1  # step from a frame to the next one
        self._lost = 0
        self._waiting: Numbered = []  # with places instead of numbers
        self.read = 0
        self.last = -1

    def add(self, seconds: float, image: Any = None, *, decoded: bool = True) -> Numbered:
        """Takes the next frame, and gives those that have a number now: none, one or several.

        Args:
            seconds: when it is shown, as FFmpeg says; 0 if its time is lost.
            image: is given back beside its number.
            decoded: False for a frame that cannot be decoded. It takes a number all the same.
        """
        exactly = seconds * self._rate
        place = round(exactly)
        # A video of changing rate leaves the grid soon.
        self._on_grid = self._on_grid and abs(exactly - place) <= _ON_GRID
        self.read += decoded
        self._lost += not decoded
        if self._on_grid and place <= self._place:  # it has lost its time, which is 0 then
            place = self._place + 1
            seconds = place / self._rate
        step = place - self._place
        self._jumps += step > 1
        self._longest = max(step, self._longest)
        self._place = max(place, self._place)
        self._waiting.append((self._place, seconds, image))
        undecided = self._on_grid and 0 < self._jumps <= _JUMPS * _SURE
        return [] if undecided and self.read + self._lost < _SURE else self.rest()

    def rest(self) -> Numbered:
        """The frames that still wait for their numbers; to be asked for at the end."""
        constant = self._is_constant()
        numbered: Numbered = []
        for place, seconds, image in self._waiting:
            self.last = place if constant else self.last + 1
            numbered.append((self.last, seconds, image))
        self._waiting = []
        return numbered

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
        # The last frame may be shown for as long as any other one, but one long pause is no rule.
        last = 1 if constant else max(1, min(self._longest, round(_LAST_S * self._rate)))
        end = max(self.read, self._place + last)
        spare = max(_SPARE_FRAMES, int(_SPARE_S * self._rate))
        return whole if expected - end > spare else 0

    def _is_constant(self) -> bool:
        return self._on_grid and self._jumps <= _JUMPS * self.read
