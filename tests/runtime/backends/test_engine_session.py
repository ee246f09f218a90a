"""Engine sessions on a stand-in for TensorRT and CUDA."""

import contextlib
import gc
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import CLASSES, SIZE, FakeTrt, batch, expected, install, open_session

from export.engines.engine_answers import verify_engine
from runtime import (
    BackendError,
    BundleError,
    UserError,
)
from runtime.backends.cuda_runtime import LOST_DEVICE
from runtime.backends.engine_slot import graph_batch
from runtime.base.errors import DeviceLostError
from runtime.model.card import Profile
from runtime.model.holdout import Labelled


def test_answers_are_right_on_every_version(trt: FakeTrt) -> None:
    with open_session(trt) as session:
        assert (session.input_size, session.num_classes, session.max_batch) == (SIZE, CLASSES, 16)
        for count in (1, 3, 16, 5, 1, 9):
            images = batch(count)
            assert np.allclose(session.run(images), expected(images))
        with pytest.raises(UserError, match="at most 16"):
            session.run(batch(17))
    assert trt.cuda.live == {}


def test_a_warm_call_is_one_launch_and_allocates_nothing(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1, 4)
        contexts, executed = len(trt11.contexts), len(trt11.executed)
        trt11.cuda.log.clear()
        for _ in range(10):
            session.run(batch(1))
            session.run(batch(4))
        assert set(trt11.cuda.log) == {"cudaGraphLaunch", "cudaStreamSynchronize"}
        assert len(trt11.cuda.log) == 40
        assert (len(trt11.contexts), len(trt11.executed)) == (contexts, executed)


def test_each_result_is_the_callers_own(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        first = session.run(batch(4))
        kept = first.copy()
        session.run(batch(3))
        assert np.array_equal(first, kept)


def test_graphs_share_scratch_memory_and_not_contexts(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1, 2, 3)
        assert len(trt11.contexts) == 2 * 3
        assert len({context.device_memory for context in trt11.contexts}) == 2


def test_a_graph_that_cannot_be_made_leaves_nothing_behind(trt11: FakeTrt) -> None:
    """Else a server whose GPU is full would keep a context for every request that failed."""
    with open_session(trt11) as session:
        trt11.cuda.fail = "cudaStreamEndCapture"
        for _ in range(6):
            with pytest.raises(BackendError):
                session.run(batch(2))
        trt11.cuda.fail = None
        slots = [session._slots.get() for _ in range(session.lanes)]
        assert [slot._contexts for slot in slots] == [[], []]
        for slot in slots:
            session._slots.put(slot)
        assert np.allclose(session.run(batch(2)), expected(batch(2)))
    assert trt11.cuda.live == {}


def test_without_capture_the_steps_are_enqueued(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeTrt("11.4.0", "tensorrt-rtx", cuda), monkeypatch)
    fake.capturable = False
    with open_session(fake) as session:
        images = batch(2)
        session.run(images)
        assert np.allclose(session.run(images), expected(images))
    assert "cudaGraphLaunch" not in cuda.log
    assert cuda.live == {}


def test_threads_do_not_mix_their_batches(trt11: FakeTrt) -> None:
    wrong: list[int] = []

    def client(count: int) -> None:
        for _ in range(50):
            images = batch(count)
            if not np.allclose(session.run(images), expected(images)):
                wrong.append(count)

    with open_session(trt11) as session:
        session.warm_up(*range(1, 9))
        threads = [threading.Thread(target=client, args=(count,)) for count in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_two_that_want_all_lanes_do_not_wait_for_each_other(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1)
        slots, first = session._slots, threading.Barrier(2)

        class Slow:
            """Hands out a lane, then waits for the other thread to have had its chance."""

            def get(self) -> Any:
                slot = slots.get()
                with contextlib.suppress(threading.BrokenBarrierError):
                    first.wait(timeout=0.2)
                return slot

            put = slots.put

        session._slots = Slow()  # type: ignore[assignment]
        threads = [
            threading.Thread(target=session.warm_up, args=(2,), daemon=True) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in threads)
        session._slots = slots


def test_one_lane_at_a_time_prepares_a_batch_size(trt11: FakeTrt) -> None:
    busy, most = [0], [0]

    class Context(trt11.types["IExecutionContext"]):  # type: ignore[misc,name-defined]
        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
            time.sleep(0.02)
            busy[0] -= 1
            return bool(super().set_input_shape(name, shape))

    trt11.types["IExecutionContext"] = Context
    with open_session(trt11) as session:
        clients = [threading.Thread(target=session.run, args=(batch(n),)) for n in (1, 2, 3, 4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    assert most == [1]


def test_a_batch_that_is_too_large_to_warm_up_is_the_callers_mistake(trt11: FakeTrt) -> None:
    with open_session(trt11) as session, pytest.raises(UserError, match=r"17 images.*at most 16"):
        session.warm_up(1, 17)
    assert trt11.executed == []


def test_a_closed_session_is_not_warmed_up(trt11: FakeTrt) -> None:
    session = open_session(trt11)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.warm_up(1)
    session.close()


def test_a_closed_session_lets_go_of_the_engine(trt11: FakeTrt) -> None:
    session = open_session(trt11)
    session.run(batch(2))
    engine = weakref.ref(session._keep[1])
    assert engine() is not None
    session.close()
    trt11.contexts.clear()
    gc.collect()
    assert engine() is None


def test_every_failing_cuda_call_is_reported_and_nothing_leaks(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.run(batch(2))
    makers = {"cudaStreamCreateWithFlags", "cudaMalloc", "cudaHostAlloc"}
    workers = {
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
    }
    assert makers | workers <= set(trt11.cuda.log)
    for name in makers:
        trt11.cuda.fail = name
        with pytest.raises(BackendError, match=f"{name} failed: an illegal memory access"):
            open_session(trt11)
        assert trt11.cuda.live == {}
    for name in workers:
        trt11.cuda.fail = None
        with open_session(trt11) as session:
            trt11.cuda.fail = name
            with pytest.raises(BackendError, match=f"{name} failed"):
                session.run(batch(2))
            trt11.cuda.fail = None
        assert trt11.cuda.live == {}


# Out of memory, illegal address, launch failure: only behind the last two does CUDA work no more.
@pytest.mark.parametrize(("error", "lost"), [(2, False), (700, True), (719, True)])
def test_an_error_that_ends_all_use_of_cuda_is_marked(
    error: int, lost: bool, trt11: FakeTrt
) -> None:
    with open_session(trt11) as session:
        trt11.cuda.fail, trt11.cuda.error = "cudaStreamSynchronize", error
        with pytest.raises(BackendError, match=rf"\(CUDA {error}\)") as raised:
            session.run(batch(2))
        assert isinstance(raised.value, DeviceLostError) == lost
        assert ("start it again" in str(raised.value)) == lost
        trt11.cuda.fail = None


def test_where_tensorrt_fails_cuda_is_asked_whether_it_still_works(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        trt11.fail_execute = True
        trt11.cuda.fail, trt11.cuda.error = "cudaStreamQuery", 600  # not ready
        with pytest.raises(BackendError, match="execute_async_v3 failed: cuTensor problem"):
            session.run(batch(1))
        trt11.cuda.error = 700
        with pytest.raises(DeviceLostError, match=r"an illegal memory access .*start it again"):
            session.run(batch(1))
        trt11.cuda.fail, trt11.fail_execute = None, False


def test_the_errors_that_end_all_use_of_cuda_are_those_of_its_documentation() -> None:
    errors = pytest.importorskip("cuda.bindings.runtime").cudaError_t
    words = {int(error): " ".join((error.__doc__ or "").split()) for error in errors}
    documented = {code for code, text in words.items() if "must be terminated and rel" in text}
    if not documented:
        pytest.skip("this version of cuda-bindings does not say what its errors mean")
    assert documented == LOST_DEVICE & set(words)


def test_a_failure_while_capturing_leaves_nothing_behind(trt11: FakeTrt) -> None:
    class Context(trt11.types["IExecutionContext"]):  # type: ignore[misc,name-defined]
        def execute_async_v3(self, stream: int) -> bool:
            return stream not in trt11.cuda.capturing and super().execute_async_v3(stream)

    trt11.types["IExecutionContext"] = Context
    with open_session(trt11) as session:
        with pytest.raises(BackendError, match="execute_async_v3 failed"):
            session.run(batch(1))
        assert not trt11.cuda.capturing
    assert trt11.cuda.live == {}


def test_an_error_is_said_once(trt11: FakeTrt, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"), pytest.raises(BundleError, match="Magic tag"):
        open_session(trt11, b"text")
    assert caplog.records == []  # without handlers, logging would print it beside the error's line


def test_tensorrts_own_failures_are_reported_with_its_words(trt11: FakeTrt) -> None:
    with pytest.raises(BundleError, match=r"11\.4\.0 refuses m\.engine: Magic tag.*build_trt"):
        open_session(trt11, b"text")
    with open_session(trt11) as session:
        trt11.fail_execute = True
        with pytest.raises(BackendError, match="execute_async_v3 failed: cuTensor problem"):
            session.run(batch(1))
        trt11.fail_execute = False
        images = batch(1)
        assert np.allclose(session.run(images), expected(images))
    with pytest.raises(BackendError, match="closed"):
        session.run(batch(1))
    session.close()


def test_8_6_is_repeated_where_it_only_warns_of_its_failure(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends.tensorrt_library import last_errors, tensorrt_logger

    fake = install(FakeTrt("8.6.2", "tensorrt", cuda), monkeypatch)
    logger = tensorrt_logger("tensorrt")
    logger.log(fake.module.ILogger.WARNING, "CUDA lazy loading is not enabled")
    assert last_errors(logger) == "TensorRT gave no reason"
    logger.log(fake.module.ILogger.WARNING, "CUDA initialization failure with error: 35")
    assert last_errors(logger) == "CUDA initialization failure with error: 35"


def test_8_6_without_profile_sharing_is_reported(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeTrt("8.6.2", "tensorrt", cuda), monkeypatch)
    fake.profile_sharing = False
    with open_session(fake) as session:
        session.run(batch(1))
        with pytest.raises(BackendError, match="set_optimization_profile_async failed"):
            session.run(batch(2))
    assert cuda.live == {}


def test_foreign_engines_are_refused(trt11: FakeTrt) -> None:
    trt11.input_type = trt11.module.DataType.HALF
    with pytest.raises(BundleError, match="expected uint8 images"):
        open_session(trt11)
    trt11.input_type = trt11.module.DataType.UINT8
    trt11.profile = (1, 8, 64)
    with pytest.raises(BundleError, match=r"batches of \(1, 8, 64\).*\(1, 4, 16\)"):
        open_session(trt11)
    assert trt11.cuda.live == {}


def test_graph_sizes_cost_at_most_a_quarter() -> None:
    wide = Profile(min=1, opt=8, max=100)
    sizes = {count: graph_batch(count, wide) for count in range(1, 101)}
    assert all(sizes[count] == count for count in range(1, 9))
    assert all(count <= size <= 1.25 * count for count, size in sizes.items())
    assert len(set(sizes.values())) < 30
    assert graph_batch(2, Profile(min=4, opt=4, max=6)) == 4
    assert graph_batch(6, Profile(min=4, opt=4, max=6)) == 6


@pytest.mark.parametrize("images", [3, 21])
def test_an_engine_is_verified_on_every_holdout_image(trt11: FakeTrt, images: int) -> None:
    trt11.profile = (8, 8, 16)
    shown = batch(images)
    record = SimpleNamespace(
        path="m.engine", flavor="tensorrt", profile=Profile(min=8, opt=8, max=16)
    )
    rows = expected(shown)
    holdout = Labelled(shown, rows.argmax(axis=1), rows)
    names = tuple(map(str, range(rows.shape[1])))
    parity = verify_engine(b"plan", record, holdout, names)  # type: ignore[arg-type]
    assert (parity.images, parity.agreement) == (images, 1)
