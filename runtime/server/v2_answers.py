"""The answer to an Open Inference Protocol request: probabilities or classes, JSON or binary."""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.model.card import OUTPUT_NAME
from runtime.server.v2_messages import OUTPUT_TYPE, Parameters, V2Answer, V2Output, V2Request

_CLASSES_TYPE = "BYTES"
_END_OF_TIMEOUTS = 1 << 64  # Triton's are of 64 bits


@dataclass(frozen=True)
class Wanted:
    """How the one output is wanted.

    Attributes:
        classes: how many classes as texts "PROBABILITY:INDEX:LABEL"; 0: all probabilities.
        binary: whether its values come behind the JSON.
        timeout: seconds within which the answer is wanted; None: the server's own limit.
    """

    classes: int
    binary: bool
    timeout: float | None


def wanted_of(request: V2Request) -> Wanted:
    """What a request asks for.

    Raises:
        UserError: it asks for an output that is not there, or for more than this server does.
    """
    parameters = request.parameters or {}
    if parameters.get("sequence_id"):
        raise UserError("sequence_id: this model answers each image by itself; leave it out")
    outputs = request.outputs or []
    if names := [output.name[:100] for output in outputs if output.name != OUTPUT_NAME]:
        raise UserError(f"the output {names[0]!r} is unknown; expected {OUTPUT_NAME!r}")
    if len(outputs) > 1:
        raise UserError(f"the output {OUTPUT_NAME!r} is asked for {len(outputs)} times; ask once")
    own: Parameters = (outputs[0].parameters or {}) if outputs else {}
    if "shared_memory_region" in own:
        raise UserError("this server shares no memory with clients; leave shared_memory_region out")
    classes = own.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise UserError(f"classification is {str(classes)[:20]}, expected a number of classes")
    binary = own.get("binary_data", parameters.get("binary_data_output", False))
    if not isinstance(binary, bool):
        raise UserError(f"binary_data is {str(binary)[:20]}, expected true or false")
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout < _END_OF_TIMEOUTS:
        raise UserError(
            f"timeout is {str(timeout)[:20]}, expected a number of microseconds below 2**64"
        )
    return Wanted(classes, binary, timeout / 1e6 if timeout else None)


def answer_with(
    rows: NDArray[np.float32],
    labels: Sequence[str],
    wanted: Wanted,
    *,
    name: str,
    version: str,
    request_id: str | None,
    warnings: Sequence[str],
    accepted: Sequence[bool | None],
) -> Response:
    """The response 200 with probabilities (N, num_classes), as they are wanted.

    Args:
        rows: the probabilities of each image.
        labels: the names of the classes.
        wanted: what the request asks for.
        name: of the model, as the request has it.
        version: of the model that answered.
        request_id: what the request was called; None: nothing.
        warnings: of the decoder.
        accepted: whether each answer is, by the threshold of the file; None: it has none.
    """
    if wanted.classes:
        texts = [_classes(row, labels, wanted.classes) for row in rows]
        shape, datatype = [len(texts), len(texts[0])], _CLASSES_TYPE
        data: list[float | str] = [text for row in texts for text in row]
        content = b"".join(map(_element, itertools.chain(*texts)))
    else:
        shape, datatype = list(rows.shape), OUTPUT_TYPE
        content = np.ascontiguousarray(rows, "<f4").tobytes() if wanted.binary else b""
        data = [] if wanted.binary else rows.ravel().tolist()
    output = V2Output(
        name=OUTPUT_NAME,
        datatype=datatype,
        shape=shape,
        parameters={"binary_data_size": len(content)} if wanted.binary else None,
        data=None if wanted.binary else data,
    )
    head = msgspec.json.encode(
        V2Answer(
            model_name=name,
            model_version=version,
            outputs=[output],
            id=request_id,
            parameters=_parameters(warnings, accepted) or None,
        )
    )
    if not wanted.binary:
        return Response(head, media_type="application/json")
    return Response(
        head + content,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(head))},
    )


def _element(text: str) -> bytes:
    """A text of a BYTES tensor: 4 bytes of its length, little endian, and its UTF-8."""
    content = text.encode()
    return struct.pack("<I", len(content)) + content


def _parameters(warnings: Sequence[str], accepted: Sequence[bool | None]) -> Parameters:
    """What the protocol has no field for. Its parameters are numbers, texts and truth values."""
    found: Parameters = {"warnings": "; ".join(warnings)} if warnings else {}
    if None not in accepted:
        found["accepted"] = ",".join("true" if each else "false" for each in accepted)
    return found


def _classes(row: NDArray[np.float32], labels: Sequence[str], count: int) -> list[str]:
    """The most probable classes, in Triton's form."""
    order = np.argsort(-row, kind="stable")[:count].tolist()
    return [f"{row[index]:.6f}:{index}:{labels[index]}" for index in order]
