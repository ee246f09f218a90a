"""What Triton's python backend runs; `export/to_triton.py` copies this file as `1/model.py`.

The server's Python needs this project's `runtime` package, and neither torch nor onnx.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton's own
from numpy.typing import NDArray

from runtime import open_classifier
from runtime.base.errors import ImageError, SkdEdgeError, UserError
from runtime.base.resources import usable_cores
from runtime.inference.pending_image import prepare_bounded
from runtime.model.card import INPUT_NAME, OUTPUT_NAME
from runtime.model.model_name import ENCODED_NAME


class TritonPythonModel:
    """Serves the bundle beside this file with the best backend that runs on the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle. The configuration may name the precision."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        precision = parameters.get("precision", {}).get("string_value") or None
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._classifier = open_classifier(bundle, precision=precision)
        self._decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Runs the images of all requests as one batch, and gives each request its own rows.

        A request has either uint8 images (N, S, S, 3) or files of pictures (N, 1), which are
        prepared as everywhere in this project. Its answer has float32 probabilities (N, K). One
        that cannot be read gets an error, and the others their answers.
        """
        batches = [self._images_or_error(request) for request in requests]
        images = [batch for batch in batches if isinstance(batch, np.ndarray)]
        try:
            rows = self._classifier.probabilities(np.concatenate(images)) if images else None
        except SkdEdgeError as error:
            return [_refusal(str(error)) for _ in requests]
        responses, start = [], 0
        for batch in batches:
            if rows is None or not isinstance(batch, np.ndarray):
                responses.append(_refusal(str(batch)))
                continue
            own = np.ascontiguousarray(rows[start : start + len(batch)])
            start += len(batch)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT_NAME, own)]))
        return responses

    def _images_or_error(self, request: Any) -> NDArray[np.uint8] | UserError:
        """The network's input of one request, or why there is none."""
        arrays, pictures = (
            pb_utils.get_input_tensor_by_name(request, name) for name in (INPUT_NAME, ENCODED_NAME)
        )
        if (arrays is None) == (pictures is None):
            return UserError(f"send either {INPUT_NAME} or {ENCODED_NAME}")
        if arrays is not None:
            images: NDArray[np.uint8] = arrays.as_numpy()
            return images
        files = [bytes(file) for file in pictures.as_numpy().ravel()]
        names = [f"picture {place}" for place in range(len(files))]
        try:
            return np.stack(list(self._decoders.map(self._prepare, files, names)))
        except ImageError as error:
            return error

    def _prepare(self, file: bytes, name: str) -> NDArray[np.uint8]:
        return prepare_bounded(self._classifier, file, name=name)

    def finalize(self) -> None:
        """Closes the session when the model is unloaded."""
        self._decoders.shutdown()
        self._classifier.close()


def _refusal(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason))
