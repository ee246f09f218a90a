"""`config.pbtxt`: what Triton Inference Server has to know of a model, as protobuf text."""

import json
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.card import INPUT_NAME, OUTPUT_NAME, Card

Backend = Literal["onnxruntime", "tensorrt", "python"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
LABELS_FILE = "labels.txt"
MARK = "# Written by `python export/to_triton.py`."
MODEL_FILES: dict[Backend, str] = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "python": "model.py",
}
# Waiting longer than one batch takes would only add to the latency of a quiet server.
_QUEUE_DELAY_MICROSECONDS = 2000
_KINDS: dict[Backend, str] = {
    "onnxruntime": "KIND_AUTO",
    "tensorrt": "KIND_GPU",
    "python": "KIND_CPU",  # where the process runs; the session in it may use the GPU
}


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """One model of a repository."""

    name: str
    backend: Backend
    card: Card
    max_batch: int
    preferred_batch: int
    precision: str | None = None  # python backend: None lets the runtime choose


def config_text(model: TritonModel) -> str:
    """The configuration: dynamic batching, labels, and a warm-up at the batches that matter."""
    size, backend = model.card.input.size, model.backend
    warm_ups = dict.fromkeys([1, model.preferred_batch, model.max_batch])
    lines = [
        MARK,
        f"name: {_quoted(model.name)}",
        f"backend: {_quoted(backend)}",
        f"default_model_filename: {_quoted(MODEL_FILES[backend])}",
        f"max_batch_size: {model.max_batch}",
        f"input [{{ name: {_quoted(INPUT_NAME)} data_type: TYPE_UINT8 "
        f"dims: [{size}, {size}, 3] }}]",
        f"output [{{ name: {_quoted(OUTPUT_NAME)} data_type: TYPE_FP32 "
        f"dims: [{model.card.num_classes}] label_filename: {_quoted(LABELS_FILE)} }}]",
        f"instance_group [{{ kind: {_KINDS[backend]} count: 1 }}]",
        f"dynamic_batching {{ preferred_batch_size: [{model.preferred_batch}] "
        f"max_queue_delay_microseconds: {_QUEUE_DELAY_MICROSECONDS} }}",
        *(_warm_up(batch, size) for batch in warm_ups),
    ]
    if model.precision is not None:
        value = f"{{ string_value: {_quoted(model.precision)} }}"
        lines.append(f"parameters {{ key: {_quoted('precision')} value: {value} }}")
    return "\n".join(lines) + "\n"


def labels_text(card: Card) -> str:
    """A line a class, in the order of the output."""
    return "".join(" ".join(label.split()) + "\n" for label in card.class_names)


def _warm_up(batch: int, size: int) -> str:
    tensor = f"{{ data_type: TYPE_UINT8 dims: [{size}, {size}, 3] zero_data: true }}"
    return (
        f"model_warmup {{ name: {_quoted(f'batch {batch}')} batch_size: {batch} "
        f"inputs {{ key: {_quoted(INPUT_NAME)} value: {tensor} }} }}"
    )


def _quoted(text: str) -> str:
    # Protobuf text takes JSON's escapes for what a name may hold.
    return json.dumps(text)
