"""The JSON of the Open Inference Protocol v2: what requests hold and what answers say.

https://github.com/open-inference/open-inference-protocol, "HTTP/REST", and of Triton's extensions
"binary tensor data" and "classification" (triton-inference-server/server, docs/protocol).
"""

from typing import Any

import msgspec

from runtime.inference.classifier import Classifier
from runtime.model.card import INPUT_NAME, OUTPUT_NAME
from runtime.model.model_name import ENCODED_NAME
from runtime.server.answers import V2Error

IMAGES_TYPE, ENCODED_TYPE, OUTPUT_TYPE = "UINT8", "BYTES", "FP32"
EXTENSIONS = ("binary_tensor_data", "classification")
_REFERENCE = "#/components/schemas/{name}"

Parameters = dict[str, Any]


class V2Input(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a request: its values in `data`, or behind the JSON (`binary_data_size`)."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class V2RequestedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor that is asked for; parameters `binary_data` and `classification`."""

    name: str
    parameters: Parameters | None = None


class V2Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request; parameters `binary_data_output` and `timeout` (microseconds)."""

    inputs: list[V2Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[V2RequestedOutput] | None = None


class V2Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor of an answer: its values in `data`, or behind the JSON (`binary_data_size`)."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[float | str] | None = None


class V2Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of one request.

    `model_version` counts how often a model of this name has been loaded since the server started.
    """

    model_name: str
    model_version: str
    outputs: list[V2Output]
    id: str | None = None
    parameters: Parameters | None = None


class V2Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """Name, type and shape of an input or output; -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class V2Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[V2Tensor]
    outputs: list[V2Tensor]


class V2Server(msgspec.Struct, frozen=True, kw_only=True):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class V2Live(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    live: bool


class V2Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Images are accepted."""

    ready: bool


class V2ModelReady(msgspec.Struct, frozen=True, kw_only=True):
    """The model accepts images."""

    name: str
    ready: bool


_DESCRIBED: tuple[type[msgspec.Struct], ...] = (
    *(V2Server, V2Live, V2Ready, V2Model, V2ModelReady, V2Request, V2Answer, V2Error),
)


def v2_schemas() -> dict[str, Any]:
    """The JSON schemas of all bodies, by the name of their struct."""
    _, components = msgspec.json.schema_components(_DESCRIBED, ref_template=_REFERENCE)
    # Of bytes that are not decoded yet, the schema says nothing.
    components["V2Input"]["properties"]["data"] = {
        "type": "array",
        "items": {},
        "description": "integers from 0 to 255, or base64 texts; flat, or nested as the shape says",
    }
    return components


def metadata(classifier: Classifier, name: str, version: str, *, encoded: bool) -> V2Model:
    """What `GET /v2/models/NAME` answers.

    Encoded pictures have the shape (N, 1), as Triton has it of a model that takes batches.
    """
    size = classifier.session.input_size
    images = V2Tensor(name=INPUT_NAME, datatype=IMAGES_TYPE, shape=[-1, size, size, 3])
    pictures = V2Tensor(name=ENCODED_NAME, datatype=ENCODED_TYPE, shape=[-1, 1])
    rows = V2Tensor(name=OUTPUT_NAME, datatype=OUTPUT_TYPE, shape=[-1, classifier.card.num_classes])
    on_onnx = classifier.backend.startswith("onnx")
    return V2Model(
        name=name,
        versions=[version],
        platform="onnxruntime_onnx" if on_onnx else "tensorrt_plan",  # Triton's words
        inputs=[pictures if encoded else images],
        outputs=[rows],
    )
