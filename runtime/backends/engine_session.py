"""A serialized engine on TensorRT 8.6 to 11 or TensorRT-RTX: `tensorrt` and `tensorrt-rtx`."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.cuda_runtime import Cuda
from runtime.backends.engine_slot import EngineSlot
from runtime.backends.kernel_cache import open_kernel_cache
from runtime.backends.session import Session
from runtime.backends.tensorrt_library import (
    LoadedEngine,
    last_errors,
    load_engine,
    load_tensorrt,
    tensorrt_logger,
)
from runtime.base.errors import BackendError, BundleError
from runtime.model.card import INPUT_NAME, OUTPUT_NAME, Flavor, Profile

# With two lanes, the next batch is copied to the device while one is in the network.
_SLOTS = 2


class EngineSession(Session):
    """An engine with our input and output. Safe to share between threads.

    TensorRT trusts the bytes that it deserialises. The caller must therefore have compared the
    engine with the machine (`runtime.backends.preflight`), and its digest with the card's.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        source: str,
        flavor: Flavor,
        profile: Profile,
        slots: int = _SLOTS,
        loaded: LoadedEngine | None = None,
    ) -> None:
        """Deserialises an engine, unless it is loaded already, and allocates all memory.

        Args:
            plan: the content of the engine's file.
            source: what to call the file in errors.
            flavor: the package that built it.
            profile: the batches that it accepts, from the card.
            slots: how many batches can be in work at the same time.
            loaded: the engine, if the caller has deserialised it already.

        Raises:
            BackendError: TensorRT or CUDA is missing, or a call of theirs failed.
            BundleError: TensorRT refuses the engine, or it is not one of this project's networks.
        """
        self.backend = flavor
        trt, cuda, logger = load_tensorrt(flavor), Cuda(), tensorrt_logger(flavor)
        loaded = loaded or load_engine(trt, logger, plan)
        if loaded is None:
            raise BundleError(
                f"{flavor} {trt.__version__} refuses {source}: {last_errors(logger)}; "
                "build it again with `python export/build_trt.py`"
            )
        engine = loaded.engine
        self.input_size, self.num_classes = _check_tensors(trt, engine, source)
        _check_profile(engine, profile, source)
        self.max_batch = profile.max
        self._closed = False
        self._slots: queue.SimpleQueue[EngineSlot] = queue.SimpleQueue()
        self.lanes = slots  # batches that are in work at the same time
        self._whole = threading.Lock()
        preparing = threading.Lock()
        self._kernels = open_kernel_cache(trt, engine, plan, logger)
        with contextlib.ExitStack() as opened:
            for _ in range(slots):
                slot = EngineSlot(
                    trt,
                    engine,
                    logger,
                    cuda,
                    size=self.input_size,
                    profile=profile,
                    preparing=preparing,
                    kernels=self._kernels,
                )
                opened.callback(slot.close)
                self._slots.put(slot)
            opened.pop_all()
        # TensorRT requires that these two live at least as long as the contexts.
        self._keep: LoadedEngine | None = loaded

    def warm_up(self, *batches: int) -> None:
        """Captures the graphs of these batch sizes in every lane."""
        shape = (max(batches, default=1), self.input_size, self.input_size, self._CHANNELS)
        black = np.zeros(shape, np.uint8)
        self._check(black)
        with self._every_slot() as slots:
            self._require_open()
            for slot in slots:
                for batch in batches:
                    slot.run(black[:batch])
            self._keep_kernels()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        slot = self._slots.get()
        try:
            self._require_open()
            return slot.run(images)
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Waits for the running batches, then frees everything. A second call does nothing."""
        with self._every_slot() as slots:
            if not self._closed:
                self._keep_kernels()  # including those of batch sizes that were not warmed up
            self._closed = True
            for slot in slots:
                slot.close()
            self._kernels = None  # after the contexts that use it
            self._keep = None

    @contextlib.contextmanager
    def _every_slot(self) -> Iterator[list[EngineSlot]]:
        """All lanes, as soon as the batches in them are done."""
        # One thread at a time: two threads with half of the lanes each would wait for ever.
        with self._whole:
            slots = [self._slots.get() for _ in range(self.lanes)]
            try:
                yield slots
            finally:
                for slot in slots:
                    self._slots.put(slot)

    def _keep_kernels(self) -> None:
        if self._kernels is not None:
            self._kernels.keep()

    def _require_open(self) -> None:
        if self._closed:
            raise BackendError("the session is closed; open the model again")


def _check_tensors(trt: Any, engine: Any, source: str) -> tuple[int, int]:
    """Returns the input's edge in pixels and the number of classes.

    Raises:
        BundleError: the engine has other inputs or outputs than this project's networks.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {
        name: (
            engine.get_tensor_mode(name),
            engine.get_tensor_dtype(name),
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }
    expected_kinds = {
        INPUT_NAME: (trt.TensorIOMode.INPUT, trt.DataType.UINT8),
        OUTPUT_NAME: (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT),
    }
    if {name: value[:2] for name, value in found.items()} == expected_kinds:
        match (found[INPUT_NAME][2], found[OUTPUT_NAME][2]):
            case ((-1, height, width, 3), (-1, num_classes)) if height == width:
                return height, num_classes
    raise BundleError(
        f"{source} has the tensors {found}; expected uint8 {INPUT_NAME} (N, size, size, 3) and "
        f"float32 {OUTPUT_NAME} (N, classes), as `python export/build_trt.py` builds"
    )


def _check_profile(engine: Any, profile: Profile, source: str) -> None:
    shapes = engine.get_tensor_profile_shape(INPUT_NAME, 0)
    batches = tuple(shape[0] for shape in shapes)
    if batches != (profile.min, profile.opt, profile.max):
        raise BundleError(
            f"{source} takes batches of {batches} (min, opt, max), the card says "
            f"{(profile.min, profile.opt, profile.max)}; build it again with "
            "`python export/build_trt.py`"
        )
