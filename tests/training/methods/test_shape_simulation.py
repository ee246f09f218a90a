"""The simulation of docs/evidence.md: what it says does not hang on the number of pictures."""

from tests.benchmarks.shape_simulation import simulated


def test_the_papers_shape_costs_what_no_temperature_mends_and_the_scale_free_one_does_not() -> None:
    def of(shape: str | None) -> tuple[float, float, float, float]:
        return simulated(shape, pictures=300, steps=400)

    accuracy, best, _, spread = of(None)
    same, paper, _, alike = of("paper")
    assert same == accuracy
    assert paper - best > 0.04
    assert alike < 0.75 * spread
    _, standardised, _, kept = of("standardised")
    assert standardised - best < 0.01
    assert kept > 0.9 * spread
