"""One lane through an engine: a stream, pinned staging, device buffers and CUDA graphs.

A graph holds all steps of a batch: copy to the device, network, copy back. As NVIDIA advises, each
graph has its own execution context. The contexts of a slot share one scratch memory, because a slot
runs one batch at a time.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.cuda_runtime import Cuda, host_view
from runtime.backends.kernel_cache import KernelCache
from runtime.backends.tensorrt_library import last_errors
from runtime.base.errors import BackendError
from runtime.model.card import INPUT_NAME, OUTPUT_NAME, Profile

_CHANNELS = 3


class EngineSlot:
    """Runs batches on its own stream. Only one thread may use it at a time."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        logger: Any,
        cuda: Cuda,
        *,
        size: int,
        profile: Profile,
        preparing: threading.Lock,
        kernels: KernelCache | None,
    ) -> None:
        """Allocates the memory that the profile's largest batch needs.

        Args:
            trt: the module of TensorRT.
            engine: the deserialised engine.
            logger: the logger of `trt`.
            cuda: the CUDA runtime.
            size: edge of the input in pixels.
            profile: the batches that the engine accepts.
            preparing: held while a context is made. All slots of an engine share it, because
                TensorRT does not promise that two threads may make contexts of one engine.
            kernels: the compiled kernels that the slots share; None: there are none to share.

        Raises:
            BackendError: a call of CUDA failed.
        """
        self._trt, self._engine, self._logger, self._cuda = trt, engine, logger, cuda
        self._preparing, self._kernels = preparing, kernels
        self._size, self._profile = size, profile
        self._num_classes = int(engine.get_tensor_shape(OUTPUT_NAME)[1])
        self._image_bytes = size * size * _CHANNELS
        self._row_bytes = self._num_classes * np.dtype(np.float32).itemsize
        self._launches: dict[int, Callable[[], None]] = {}
        self._contexts: list[Any] = []  # a graph uses what its context owns
        with contextlib.ExitStack() as resources:
            self._resources = resources
            self._stream = cuda.new_stream()
            resources.callback(cuda.destroy_stream, self._stream)
            self._allocate(profile.max)
            self._resources = resources.pop_all()  # nothing has failed, so nothing is freed

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities float32 (N, num_classes) of a checked batch, uint8 (N, size, size, 3).

        Raises:
            BackendError: a call of TensorRT or CUDA failed.
        """
        count = len(images)
        batch = graph_batch(count, self._profile)
        launch = self._launches.get(batch) or self._prepare(batch)
        np.copyto(self._staged_images[:count], images)
        launch()
        self._cuda.synchronize(self._stream)
        rows: NDArray[np.float32] = self._staged_rows[:count].copy()
        return rows

    def close(self) -> None:
        """Frees everything. A second call does nothing."""
        self._launches.clear()
        try:
            self._resources.close()
        finally:
            self._kernels = None
            self._engine = None  # its weights stay on the device as long as it is referenced

    def _allocate(self, max_batch: int) -> None:
        cuda, resources = self._cuda, self._resources
        in_bytes, out_bytes = max_batch * self._image_bytes, max_batch * self._row_bytes
        self._device_images = cuda.device_alloc(in_bytes)
        resources.callback(cuda.device_free, self._device_images)
        self._device_rows = cuda.device_alloc(out_bytes)
        resources.callback(cuda.device_free, self._device_rows)
        self._host_images = cuda.host_alloc(in_bytes)
        resources.callback(cuda.host_free, self._host_images)
        self._host_rows = cuda.host_alloc(out_bytes)
        resources.callback(cuda.host_free, self._host_rows)
        shape = (max_batch, self._size, self._size, _CHANNELS)
        self._staged_images = host_view(self._host_images, shape, "uint8")
        self._staged_rows: NDArray[np.float32] = host_view(
            self._host_rows, (max_batch, self._num_classes), "float32"
        )
        self._scratch = cuda.device_alloc(scratch_bytes(self._engine))
        resources.callback(cuda.device_free, self._scratch)
        resources.callback(self._contexts.clear)

    def _prepare(self, batch: int) -> Callable[[], None]:
        """What runs batches of one size: a captured graph, or its steps if there is no graph."""
        with self._preparing:
            launch = self._launch_of(batch)
        self._launches[batch] = launch
        return launch

    def _launch_of(self, batch: int) -> Callable[[], None]:
        context = self._new_context(batch)
        self._contexts.append(context)
        try:
            return self._launch_with(context, batch)
        except BaseException:  # the next batch of this size makes a new context
            self._contexts.remove(context)
            raise

    def _launch_with(self, context: Any, batch: int) -> Callable[[], None]:
        steps = self._steps(context, batch)
        steps()  # TensorRT completes its set-up in the first run, which must not be captured
        self._cuda.synchronize(self._stream)
        # Only TensorRT-RTX has engines that allocate while they run, which cannot be captured.
        capturable = getattr(context, "is_stream_capturable", lambda stream: True)
        if not capturable(self._stream):
            return steps
        graph = self._cuda.capture(self._stream, steps)
        self._resources.callback(self._cuda.destroy_graph, graph)
        return functools.partial(self._cuda.launch, graph, self._stream)

    def _steps(self, context: Any, batch: int) -> Callable[[], None]:
        in_bytes, out_bytes = batch * self._image_bytes, batch * self._row_bytes

        def steps() -> None:
            self._cuda.copy_to_device(
                self._device_images, self._host_images, in_bytes, self._stream
            )
            self._check(context.execute_async_v3(self._stream), "execute_async_v3")
            self._cuda.copy_to_host(self._host_rows, self._device_rows, out_bytes, self._stream)

        return steps

    def _new_context(self, batch: int) -> Any:
        context = context_without_memory(self._trt, self._engine, self._kernels)
        self._check(context is not None, "create_execution_context")
        context.device_memory = self._scratch
        if context.active_optimization_profile < 0:  # in 8.6, another context has the profile
            self._check(self._takes_profile(context), "set_optimization_profile_async")
        shape = (batch, self._size, self._size, _CHANNELS)
        self._check(context.set_input_shape(INPUT_NAME, shape), "set_input_shape")
        for name, address in (
            (INPUT_NAME, self._device_images),
            (OUTPUT_NAME, self._device_rows),
        ):
            self._check(context.set_tensor_address(name, address), "set_tensor_address")
        return context

    def _takes_profile(self, context: Any) -> bool:
        try:
            return bool(context.set_optimization_profile_async(0, self._stream))
        except RuntimeError:  # only this call raises; the others return False
            return False

    def _check(self, passed: bool, call: str) -> None:
        # If a False were ignored, the answer of the previous batch would be read again.
        if not passed:
            self._cuda.require_device(self._stream)
            raise BackendError(f"{call} failed: {last_errors(self._logger)}")


def graph_batch(count: int, profile: Profile) -> int:
    """The batch size whose graph runs `count` images.

    Up to 8 images it is `count` itself. Above, sizes grow in steps of 2 up to 16, of 4 up to 32, of
    8 up to 64, and so on. So there are few graphs, and a batch costs at most a quarter more work.
    """
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return max(profile.min, min(profile.max, -(-count // step) * step))


def scratch_bytes(engine: Any) -> int:
    """The scratch memory of a context in bytes; at least 1, so that it always has an address."""
    if hasattr(engine, "device_memory_size_v2"):  # since 10.1; 11 has no other
        return max(1, int(engine.device_memory_size_v2))
    return max(1, int(engine.device_memory_size))


def context_without_memory(trt: Any, engine: Any, kernels: KernelCache | None = None) -> Any:
    """A context whose scratch memory the caller provides. Each version has its own call for it.

    None if TensorRT refuses; its log has the reason.
    """
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:  # 8.6
        return engine.create_execution_context_without_device_memory()
    specialization = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if specialization is None:
        return engine.create_execution_context(strategies.USER_MANAGED)
    # By default TensorRT-RTX runs slow kernels while it compiles better ones in another thread. A
    # captured graph would keep the slow ones for ever. With EAGER it compiles first.
    config = engine.create_runtime_config()
    if config is None:
        return None
    config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
    config.dynamic_shapes_kernel_specialization_strategy = specialization.EAGER
    if kernels is not None:
        kernels.use_in(config)
    return engine.create_execution_context(config)
