"""`config.pbtxt`: what Triton Inference Server has to know about a model, as protobuf text.

The text is short, so it is written without a protobuf library. A test reads it with Triton's own
protobuf classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.model.card import INPUT_NAME, OUTPUT_NAME, Card
from runtime.model.model_name import ENCODED_NAME

Backend = Literal["onnxruntime", "tensorrt", "python"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
LABELS_FILE = "labels.txt"
MARK = "# Written by `python export/to_triton.py`."
MODEL_FILES: dict[Backend, str] = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "python": "model.py",
}
_KINDS: dict[Backend, str] = {
    "onnxruntime": "KIND_AUTO",
    "tensorrt": "KIND_GPU",
    "python": "KIND_CPU",  # the process runs on the CPU; the session in it may use the GPU
}


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """One model of a repository.

    Attributes:
        name: the name of its folder.
        backend: Triton's backend that runs it.
        card: the bundle's card.
        max_batch: the largest batch that Triton may form.
        warm_up: sizes of batches that run once before the server is ready.
        precision: which precision is served; None: the default, or the choice of the runtime in
            the python backend.
        threshold: the probability from which on its file accepts answers; None: it has none, or the
            runtime chooses the file.
    """

    name: str
    backend: Backend
    card: Card
    max_batch: int
    warm_up: Sequence[int]
    precision: str | None
    threshold: float | None = None


def config_text(model: TritonModel) -> str:
    """The configuration: dynamic batching, labels, and a warm-up at the sizes of `warm_up`."""
    size, backend = model.card.input.size, model.backend
    lines = [
        MARK,
        f"name: {_quoted(model.name)}",
        f"backend: {_quoted(backend)}",
        f"default_model_filename: {_quoted(MODEL_FILES[backend])}",
        f"max_batch_size: {model.max_batch}",
        f"input [{', '.join(_inputs(backend, size))}]",
        f"output [{{ name: {_quoted(OUTPUT_NAME)} data_type: TYPE_FP32 "
        f"dims: [{model.card.num_classes}] label_filename: {_quoted(LABELS_FILE)} }}]",
        f"instance_group [{{ kind: {_kind(model)} count: 1 }}]",
        # The next batch forms while one is running. No preferred sizes: Triton's documentation
        # advises against them for an engine of one profile. No delay: without preferred sizes it
        # would hold up every batch that is smaller than the largest.
        "dynamic_batching { }",
        *(_warm_up(batch, size) for batch in model.warm_up),
    ]
    if backend == "python" and model.precision is not None:
        lines.append(_parameter("precision", model.precision))
    if model.threshold is not None:  # Triton only hands it on: its clients compare
        lines.append(_parameter("threshold", repr(model.threshold)))
    return "\n".join(lines) + "\n"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}"


def labels_text(card: Card) -> str:
    """One line for each class, in the order of the output's columns."""
    return "".join(" ".join(label.split()) + "\n" for label in card.class_names)


def _kind(model: TritonModel) -> str:
    """Where instances run. The file that is quantised for CPUs runs on a CPU, as in the runtime."""
    quantised_for_cpu = model.backend == "onnxruntime" and model.precision == "int8-cpu"
    return "KIND_CPU" if quantised_for_cpu else _KINDS[model.backend]


def _inputs(backend: Backend, size: int) -> list[str]:
    """What the model takes: arrays; in the python backend, either those or files of pictures."""
    arrays = f"name: {_quoted(INPUT_NAME)} data_type: TYPE_UINT8 dims: [{size}, {size}, 3]"
    if backend != "python":
        return [f"{{ {arrays} }}"]
    pictures = f"name: {_quoted(ENCODED_NAME)} data_type: TYPE_STRING dims: [1]"
    return [f"{{ {arrays} optional: true }}", f"{{ {pictures} optional: true }}"]


def _warm_up(batch: int, size: int) -> str:
    tensor = f"{{ data_type: TYPE_UINT8 dims: [{size}, {size}, 3] zero_data: true }}"
    return (
        f"model_warmup {{ name: {_quoted(f'batch {batch}')} batch_size: {batch} "
        f"inputs {{ key: {_quoted(INPUT_NAME)} value: {tensor} }} }}"
    )


def _quoted(text: str) -> str:
    # Protobuf text has the same escapes as JSON for the characters that a name may contain.
    return json.dumps(text)
