"""An ONNX file on ONNX Runtime: `onnx-cpu` and `onnx-cuda`."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.cuda_runtime import LOST_DEVICE, cuda_error
from runtime.backends.onnx_provider import (
    OPTIONS,
    PROVIDERS,
    load_onnxruntime,
    load_provider,
    missing_provider,
    threads_of_operator,
)
from runtime.backends.session import Session, Threads
from runtime.base.errors import BackendError, BundleError, first_line
from runtime.model.card import INPUT_NAME, OUTPUT_NAME

# In 1.31 and 1.32, on the CPU, this optimiser makes wrong answers of int8 Q/DQ over float16.
_BROKEN_OPTIMIZERS = ["WeightBiasQuantization"]
_ERRORS_ONLY = 3
_CUDA_FAILURE = re.compile(r"\bCUDA failure (\d+)")  # as ONNX Runtime's cuda_call.cc words it


class OnnxSession(Session):
    """An ONNX model with this project's input and output. Never runs on another provider."""

    def __init__(
        self, model: bytes, *, source: str, backend: str, threads: Threads | None = None
    ) -> None:
        """Opens an ONNX file.

        Args:
            model: the file's content.
            source: what to call the file in errors.
            backend: "onnx-cpu" or "onnx-cuda".
            threads: how to use the CPU.

        Raises:
            BackendError: the provider is absent or did not start.
            BundleError: not an ONNX model, or not one with this project's input and output.
        """
        self.backend = backend
        self._source = source
        self._session = _open(model, source, backend, threads or Threads())
        self.input_size, self.num_classes = _check_graph(self._session, source)
        self.metadata = self._session.get_modelmeta().custom_metadata_map

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        session = self._session
        if session is None:
            raise BackendError("the session is closed; open the model again")
        try:
            (probabilities,) = session.run([OUTPUT_NAME], {INPUT_NAME: images})
        except Exception as error:  # the errors of onnxruntime have no base class of their own
            _require_device(error, self.backend)
            raise BackendError(
                f"{self.backend} failed at {len(images)} images in {self._source} "
                f"({first_line(error)}); run fewer at once, or export the run again"
            ) from error
        result: NDArray[np.float32] = probabilities
        return result

    def close(self) -> None:
        self._session = None


def _open(model: bytes, source: str, backend: str, threads: Threads) -> Any:
    onnxruntime = load_onnxruntime()
    if missing := missing_provider(backend):
        raise BackendError(
            f"{backend} cannot run: {missing}; `python -m runtime doctor` tells how to get it"
        )
    load_provider(backend)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads.intra_op or threads_of_operator()
    if not threads.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # ONNX Runtime adds the CPU provider by itself, for operators that the GPU provider lacks.
    provider = PROVIDERS[backend]
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=[(provider, OPTIONS[backend])],
            disabled_optimizers=_BROKEN_OPTIMIZERS,
        )
    except Exception as error:  # the errors of onnxruntime have no base class of their own
        _require_device(error, backend)
        raise BundleError(
            f"{source} cannot be opened by onnxruntime {onnxruntime.__version__} "
            f"({first_line(error)}); expected an ONNX file made by `python export/run.py`"
        ) from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU and only logs it
        raise BackendError(
            f"{backend} did not start: onnxruntime fell back to {session.get_providers()[0]}; "
            "`python -m runtime doctor` tells what is missing"
        )
    return session


def _require_device(error: Exception, backend: str) -> None:
    """Raises DeviceLostError if an error of onnxruntime tells one that ends all use of CUDA."""
    lost = [code for code in map(int, _CUDA_FAILURE.findall(str(error))) if code in LOST_DEVICE]
    if lost:
        raise cuda_error(lost[0], f"{backend} failed: {first_line(error)}") from error


def _check_graph(session: Any, source: str) -> tuple[int, int]:
    """Returns the input's edge in pixels and the number of classes.

    Raises:
        BundleError: the graph has other inputs or outputs than this project's.
    """
    nodes = (*session.get_inputs(), *session.get_outputs())
    signature = [(node.name, node.type, node.shape) for node in nodes]
    match signature:
        case [
            (image_name, "tensor(uint8)", [str(), int(height), int(width), 3]),
            (output_name, "tensor(float)", [str(), int(num_classes)]),
        ] if (image_name, output_name) == (INPUT_NAME, OUTPUT_NAME) and height == width:
            return height, num_classes
    raise BundleError(
        f"{source} has the inputs and outputs {signature}; expected uint8 {INPUT_NAME} "
        f"(N, size, size, 3) and float32 {OUTPUT_NAME} (N, classes) with a free N, "
        "as `python export/run.py` writes"
    )
