"""Which precision an engine really has, so that its name never promises more than was built."""

import re
from collections.abc import Iterable
from typing import Any

from runtime.model.card import INPUT_NAME, Precision

# The words for the types of tensors in the inspector's JSON, of TensorRT 8.6 to 11. An example is
# "Row major linear FP16 format".
_INT8 = re.compile(r"\bint8\b", re.IGNORECASE)
_HALF = re.compile(r"\b(fp16|half|float16)\b", re.IGNORECASE)
_FLOAT = re.compile(r"\b(fp32|float|float32)\b", re.IGNORECASE)
# A type is given for tensors whose shape is known, and for weights:
# {"Weights": {"Type": "Half", "Count": 864}}.
_TYPES = re.compile(r'"(?:Format/Datatype|Weights"\s*:\s*\{\s*"Type)"\s*:\s*"([^"]*)"')

# The entry of our input, up to its end. It is left out: from version 9 on TensorRT calls its type
# "UInt8", but 8.6 has no such word, and its words for bytes speak of int8.
_INPUT = re.compile(rf'"Name"\s*:\s*"{INPUT_NAME}"[^{{}}]*')

_ORDER: tuple[Precision, ...] = ("int8", "fp16", "fp32")


def lower_of(first: Precision, second: Precision) -> Precision:
    """The lower of two precisions."""
    return min(first, second, key=_ORDER.index)


def precision_of_network(trt: Any, network: Any) -> Precision:
    """The lowest precision in a strongly typed network. Its engine keeps these types."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    types = {layer.get_output(i).dtype for layer in layers for i in range(layer.num_outputs)}
    if trt.DataType.INT8 in types:
        return "int8"
    return "fp16" if trt.DataType.HALF in types else "fp32"


def precision_of_engine(trt: Any, engine: Any) -> Precision | None:
    """The lowest precision that TensorRT's inspector tells of; None if it tells of none.

    `engine` is a deserialised engine, so this needs the GPU.
    """
    inspector = engine.create_engine_inspector()
    # The inspector tells nothing of tensors whose shape is open. Therefore it is shown a batch.
    context = engine.create_execution_context()
    batch = engine.get_tensor_profile_shape(INPUT_NAME, 0)[1]
    if context is not None and context.set_input_shape(INPUT_NAME, batch):
        inspector.execution_context = context
    described: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return precision_of_description(_TYPES.findall(_INPUT.sub("", described)))


def precision_of_description(formats: Iterable[str]) -> Precision | None:
    """The lowest precision among formats and types in words; None if none is recognised."""
    text = "\n".join(formats)
    if _INT8.search(text):
        return "int8"
    if _HALF.search(text):
        return "fp16"
    return "fp32" if _FLOAT.search(text) else None
