"""The trained student as an ONNX graph: uint8 images in, calibrated probabilities out.

All of the computation between a decoded image and the answer is in the graph. So no caller can
normalise in a wrong way, and only a quarter of the bytes of a float32 image go to the device.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from export.bundles.export_options import DEFAULT_OPSET, LEGACY_OPSET
from export.bundles.write_bundle import existing_card
from export.graphs.graph_edits import LOGITS, NORMALISED
from runtime.base.errors import BundleError, VerificationError
from runtime.model.bundle import Bundle
from runtime.model.card import INPUT_NAME, OUTPUT_NAME, InputSpec

BATCH = "batch"  # the name of the symbolic first dimension
NEWEST_IR = 10  # onnxruntime 1.23 and TensorRT refuse files of a newer IR version
_PIXEL_MAX = 255.0
# What other tools read of a file whose input is denoted as an image: the keys and values of
# https://onnx.ai/onnx/repo-docs/MetadataProps.html.
_IMAGE = "IMAGE"
IMAGE_PROPERTIES = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}


class DeployedModel(nn.Module):
    """What a bundle's files compute: uint8 RGB (N, S, S, 3) to float32 probabilities (N, K)."""

    def __init__(self, student: nn.Module, spec: InputSpec, temperature: float) -> None:
        """`student` maps float32 (N, 3, S, S) to logits (N, K), which `temperature` divides."""
        super().__init__()
        self.student = student
        self.temperature = temperature
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / (_PIXEL_MAX * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 (N, S, S, 3) to probabilities float32 (N, K)."""
        # The cast comes first, because Cast is the only operator for which TensorRT takes uint8.
        pixels = images.float().permute(0, 3, 1, 2).contiguous()
        logits = self.student(pixels * self.scale + self.shift)
        return torch.softmax(logits / self.temperature, dim=1)


@dataclass(frozen=True)
class ExportedGraph:
    """The float32 graph, and how it was made."""

    model: ir.Model
    opset: int
    exporter: str  # "torch 2.14.1 dynamo", as the card has it


def export_graph(
    student: nn.Module, spec: InputSpec, temperature: float, *, opset: int = DEFAULT_OPSET
) -> ExportedGraph:
    """Exports `student` with a symbolic batch and BatchNorm folded into the convolutions.

    `student` is in evaluation mode and on the CPU. Two exports of equal weights are equal to the
    byte.

    Raises:
        VerificationError: torch wrote another opset than `opset`, or a fixed batch.
    """
    model = DeployedModel(student, spec, temperature).eval()
    example = torch.zeros(2, spec.size, spec.size, 3, dtype=torch.uint8)
    with _quiet_exporter():
        if opset == LEGACY_OPSET:
            graph, name = _export_legacy(model, example, opset), "legacy"
        else:
            graph, name = _export_default(model, example, opset), "dynamo"
    _clean(graph)
    _check(graph, opset)
    _name_boundaries(graph.graph)
    return ExportedGraph(graph, opset, _exporter(name))


def kept_graph(folder: Path, checkpoint_sha256: str, opset: int) -> ExportedGraph | None:
    """The float32 graph in the bundle `folder`, if an export would write the same bytes; else None.

    It saves the export, which takes a quarter of a minute.
    """
    card = existing_card(folder, checkpoint_sha256)
    record = card.file("fp32") if card is not None else None
    if card is None or record is None or record.opset != opset:
        return None
    if not record.exporter.startswith(_exporter("")):
        return None  # another version of torch may write other bytes
    try:
        content = Bundle(folder, card).read(record)
    except BundleError:  # missing or damaged
        return None
    return ExportedGraph(
        ir.from_proto(onnx.load_from_string(content)), record.opset, record.exporter
    )


def model_bytes(model: ir.Model, metadata: Mapping[str, str]) -> bytes:
    """The content of the ONNX file of `model`, with `metadata` in it.

    Its input is denoted as an image, to which `IMAGE_PROPERTIES` apply.

    Equal models and metadata give equal bytes.

    Raises:
        onnx.checker.ValidationError: the model breaks the rules of ONNX.
    """
    proto = ir.to_proto(model)
    for image in proto.graph.input:
        image.type.denotation = _IMAGE
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _exporter(name: str) -> str:
    return f"torch {torch.__version__.partition('+')[0]} {name}"


def _export_default(model: nn.Module, example: Tensor, opset: int) -> ir.Model:
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: BATCH},),
        optimize=True,  # without it TensorRT cannot parse the graph
        verbose=False,
    )
    if program is None:
        raise AssertionError("torch.onnx.export(dynamo=True) returned no program")
    return ir.from_proto(program.model_proto)


def _export_legacy(model: nn.Module, example: Tensor, opset: int) -> ir.Model:
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        file,  # type: ignore[arg-type]  # the annotation forgets file objects
        dynamo=False,
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: {0: BATCH}, OUTPUT_NAME: {0: BATCH}},
    )
    return ir.from_proto(onnx.load_from_string(file.getvalue()))


def _clean(model: ir.Model) -> None:
    """Simplifies the graph and removes doc strings and stack traces, which hold local paths."""
    for transformation in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ShapeInferencePass(),  # the legacy exporter leaves the types out
        passes.ClearMetadataAndDocStringPass(),
    ):
        transformation(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    model.ir_version = min(model.ir_version or NEWEST_IR, NEWEST_IR)


def _name_boundaries(graph: ir.Graph) -> None:
    """Names the input of the first convolution and the output of the last linear layer.

    Conversions to float16 and int8 find the network between these two names.
    """
    nodes = list(graph)
    first = next(node for node in nodes if node.op_type == "Conv")
    last = next(node for node in reversed(nodes) if node.op_type in ("Gemm", "MatMul"))
    if first.inputs[0] is None:
        raise AssertionError("the first convolution has no input")
    first.inputs[0].name = NORMALISED
    last.outputs[0].name = LOGITS


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _check(model: ir.Model, opset: int) -> None:
    if model.opset_imports != {"": opset}:
        # If torch cannot convert to the opset, it keeps another one and only logs that.
        raise VerificationError(f"asked torch for opset {opset}, it wrote {model.opset_imports}")
    for value in (*model.graph.inputs, *model.graph.outputs):
        batch = None if value.shape is None else value.shape[0]
        if not isinstance(batch, ir.SymbolicDim) or batch.value is None:
            raise VerificationError(f"the batch of {value.name} came out as {batch}, not symbolic")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences warnings that are for torch's own developers; errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
