"""What the plan's interval can show: `python tests/benchmarks/interval_power.py`.

Simulated studies of two methods whose true difference is known: S pairs of runs, all tested on the
same 1,000 images. An answer is right if a latent score is above a threshold; the score is the sum
of

    the image's difficulty + its own response to the method + the run's + the run's on that image

all normal. The last two are what a new seed changes. The first table says how often the interval of
the crossed bootstrap and that of a paired t-test over the seeds hold the true difference, and how
wide they are, by the number of pairs and by how much runs differ as wholes. The second one says how
often the rules of docs/evidence.md answer yes, by the true difference. Prints both tables; takes
minutes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.studies.paired_tests import Columns, crossed_bootstrap, mean_of, paired_t

IMAGES, STUDIES, PAIRS = 1_000, 400, 12
# Standard deviations of the latent score.
DIFFICULTY, RESPONSE, OF_RUN_ON_IMAGE = 1.0, 0.2, 0.4
LITTLE, MUCH = 0.03, 0.12  # of a run as a whole
THRESHOLD = -0.2  # about 57 % are right
_TOP1 = mean_of("right")


def main() -> None:
    print(
        "| deviation of the pairs | pairs | bootstrap holds the truth | ± | paired t holds it | ± |"
    )
    print("|---|---|---|---|---|---|")
    for of_run in (LITTLE, MUCH):
        for pairs in (3, 6, PAIRS):
            found = np.array(list(_intervals(2.0, pairs, of_run)))
            cells = [f"{np.mean(found[:, 1]):.1f}", str(pairs)]
            for ends in (found[:, 3:5], found[:, 5:]):
                held = np.mean((ends[:, 0] <= 2.0) & (ends[:, 1] >= 2.0))
                cells += [f"{100 * held:.0f} %", f"{np.mean(ends[:, 1] - ends[:, 0]) / 2:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    print()
    print("| true difference | question 1 | question 2 | questions 5 and 6 | a paired t-test |")
    print("|---|---|---|---|---|")
    for truth in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        found = np.array(list(_intervals(truth, PAIRS, LITTLE)))
        mean, low, paired_low = found[:, 2], found[:, 3], found[:, 5]
        yes = ((low > 0) & (mean >= 2.0), low > -0.5, low > 0, paired_low > 0)
        print(f"| {truth:.1f} | {' | '.join(f'{100 * np.mean(each):.0f} %' for each in yes)} |")


def _intervals(points: float, pairs: int, of_run: float) -> Iterator[tuple[float, ...]]:
    """Of each study: the true difference, the pairs' deviation, the difference and both intervals.

    All in points.
    """
    spread = np.sqrt(DIFFICULTY**2 + of_run**2 + OF_RUN_ON_IMAGE**2)
    base = stats.norm.cdf(-THRESHOLD / spread)
    # The shift of the score that makes so many points of right answers more.
    gain = stats.norm.ppf(base + points / 100) * np.hypot(spread, RESPONSE) + THRESHOLD
    for study in range(STUDIES):
        generator = np.random.default_rng(study)
        difficulty = generator.normal(0, DIFFICULTY, IMAGES)
        response = generator.normal(0, RESPONSE, IMAGES)
        second = _runs(generator, difficulty, pairs, of_run)
        first = _runs(generator, difficulty + gain + response, pairs, of_run)
        drawn = crossed_bootstrap(first, second, _TOP1, seed=study)
        paired = paired_t(first, second, _TOP1)
        gaps = first["right"].mean(axis=1) - second["right"].mean(axis=1)
        deviation = float(np.std(gaps, ddof=1))
        found = (deviation, drawn.difference, drawn.low, drawn.high, paired.low, paired.high)
        yield (points, *(100 * each for each in found))


def _runs(
    generator: np.random.Generator, score: NDArray[np.float64], runs: int, of_run: float
) -> Columns:
    own = generator.normal(0, of_run, (runs, 1))
    own_on_image = generator.normal(0, OF_RUN_ON_IMAGE, (runs, IMAGES))
    return {"right": (score + own + own_on_image > THRESHOLD).astype(float)}


if __name__ == "__main__":
    main()
