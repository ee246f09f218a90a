"""What Triton's python backend runs; `export/to_triton.py` copies this file as `1/model.py`.

The server's Python needs this project's `runtime` package, and neither torch nor onnx.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton's own

from runtime import open_classifier
from runtime.base.errors import SkdEdgeError
from runtime.model.card import INPUT_NAME, OUTPUT_NAME


class TritonPythonModel:
    """Serves the bundle beside this file with the best backend that runs on the server."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle. The configuration may name the precision."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        precision = parameters.get("precision", {}).get("string_value") or None
        bundle = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._classifier = open_classifier(bundle, precision=precision)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Runs the images of all requests as one batch, and gives each request its own rows.

        A request has uint8 images (N, S, S, 3); its answer has float32 probabilities (N, K).
        """
        batches = [
            pb_utils.get_input_tensor_by_name(request, INPUT_NAME).as_numpy()
            for request in requests
        ]
        try:
            probabilities = self._classifier.session.run(np.concatenate(batches))
        except SkdEdgeError as error:
            refusal = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse(error=refusal) for _ in requests]
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT_NAME, np.ascontiguousarray(rows))])
            for rows in np.split(probabilities, ends)
        ]

    def finalize(self) -> None:
        """Closes the session when the model is unloaded."""
        self._classifier.close()
