"""Which option to use, judged by what was measured."""

from collections.abc import Callable, Sequence

from runtime.bench.measurement import BenchResult

# A smaller gain is not worth a loss of accuracy, and may be noise.
_WORTHWHILE = 1.1

Name = Callable[[BenchResult], str]


def model_name(result: BenchResult) -> str:
    """The backend and precision that were measured, in the words of the commands."""
    return f"{result.backend} {result.precision or ''}".strip()


def recommend(results: Sequence[BenchResult], *, name: Name = model_name) -> str:
    """One line: the fastest option for one image, the fastest for many, and whether int8 pays.

    Args:
        results: at least one.
        name: how an option is called in the line.
    """
    exact = [result for result in results if not _is_int8(result)] or list(results)
    single = min(exact, key=_single_ms)
    many = max(exact, key=_many_per_second)
    advice = f"use {name(single)} for one image ({_single_ms(single):.2f} ms)"
    if many is single:
        advice += f" and for many ({_many_per_second(many):,.0f} images/s)"
    else:
        advice += f", {name(many)} for many ({_many_per_second(many):,.0f} images/s)"
    verdicts = (_verdict(result, single, many, name) for result in results if result not in exact)
    return "; ".join([advice, *verdicts])


def _verdict(int8: BenchResult, single: BenchResult, many: BenchResult, name: Name) -> str:
    faster = _single_ms(single) / _single_ms(int8)
    wider = _many_per_second(int8) / _many_per_second(many)
    gains = [
        f"{gain:.1f}x as fast for {what}"
        for gain, what in ((faster, "one image"), (wider, "many"))
        if gain >= _WORTHWHILE
    ]
    if gains:
        return f"{name(int8)} pays: {' and '.join(gains)}{_cost(int8, single)}"
    return (
        f"int8 does not pay here: {name(int8)} is not even {_WORTHWHILE:g}x as fast "
        f"({_single_ms(int8):.2f} ms, {_many_per_second(int8):,.0f} images/s)"
    )


def _cost(int8: BenchResult, exact: BenchResult) -> str:
    # Each file is compared with the student on the same images. The images of an engine and of an
    # ONNX file may differ, because engines are verified on the held-out part alone.
    if int8.top1_drop is None or exact.top1_drop is None:
        return ""
    loss = 100 * (int8.top1_drop - exact.top1_drop)
    return f", at {loss:.2f} points of accuracy" if loss > 0 else ", at no loss of accuracy"


def _is_int8(result: BenchResult) -> bool:
    return (result.precision or "").startswith("int8")


def _single_ms(result: BenchResult) -> float:
    return result.network[0].p50_ms


def _many_per_second(result: BenchResult) -> float:
    return max(batch.images_per_second for batch in result.network)
