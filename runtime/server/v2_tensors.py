"""From the body of an Open Inference Protocol request to the images in it.

A body is JSON; or, with the header Inference-Header-Content-Length, that many bytes of JSON and
behind them the bytes of the tensors (Triton's extension "binary tensor data"). If that number is 0,
the whole body is the one input, such as the file of one picture.
"""

import binascii
import math
import struct
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from runtime.base.errors import UserError
from runtime.model.card import INPUT_NAME
from runtime.model.model_name import ENCODED_NAME
from runtime.server.v2_messages import (
    ENCODED_TYPE,
    IMAGES_TYPE,
    V2Input,
    V2Request,
)

HEADER = "inference-header-content-length"
_BINARY_SIZE = "binary_data_size"
_COMPRESSED = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_MOST_DIGITS = 12
_STRUCTURE = b"[],"
_NO_STRUCTURE = bytes({*range(256)} - {*_STRUCTURE})
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
_PIECE = 256 << 10  # bytes of JSON

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_flat_bytes = msgspec.json.Decoder(list[_Byte])
_texts = msgspec.json.Decoder(list[str | list[str]])
_request = msgspec.json.Decoder(V2Request)


def decompressed(body: bytes, headers: Headers, *, most: int) -> bytes:
    """The body without its Content-Encoding, gzip or deflate.

    Raises:
        HTTPException: with status 415 for another encoding, 413 if there are over `most` bytes,
            400 if the bytes are not of that encoding, or end early.
    """
    named = ", ".join(headers.getlist("content-encoding")).lower().split(",")
    encodings = [name for word in named if (name := word.strip()) not in ("", "identity")]
    if not encodings:
        return body
    if len(encodings) > 1 or encodings[0] not in _COMPRESSED:
        raise HTTPException(
            415,
            f"received content encoding {', '.join(encodings)[:100]!r}; expected gzip or deflate",
            headers={"Accept-Encoding": "gzip, deflate, identity"},
        )
    unpack = zlib.decompressobj(_COMPRESSED[encodings[0]])
    try:
        content = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise HTTPException(400, f"the body is not of encoding {encodings[0]}: {error}") from None
    if len(content) > most:
        raise HTTPException(413, f"the body has over {most} bytes, the limit; send less")
    if not unpack.eof or unpack.unused_data:
        raise HTTPException(400, f"the {encodings[0]} body ends early, or goes on behind its end")
    return content


def read_request(
    body: bytes, headers: Headers, *, size: int, encoded: bool
) -> tuple[V2Request, memoryview]:
    """The JSON of a request, and the bytes of its tensors behind it.

    Args:
        body: not compressed.
        headers: of the request.
        size: edge of the network's input.
        encoded: whether the model takes encoded pictures.

    Raises:
        UserError: the body is not such a request.
    """
    text = headers.get(HEADER)
    length = len(body) if text is None else _length(text, len(body))
    if text is not None and length == 0:
        return _whole_body(body, size=size, encoded=encoded)
    try:
        return _request.decode(memoryview(body)[:length]), memoryview(body)[length:]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the request is not the JSON of an inference request: {error}") from error


def images_in(request: V2Request, binary: memoryview, *, size: int, most: int) -> NDArray[np.uint8]:
    """The images (N, size, size, 3) of a request that is not encoded.

    Raises:
        UserError: it has other tensors than the network takes.
        HTTPException: with status 413, if there are more than `most` images.
    """
    tensor = _only_input(request, INPUT_NAME, IMAGES_TYPE)
    if len(tensor.shape) != 4 or tensor.shape[1:] != [size, size, 3] or tensor.shape[0] < 1:  # noqa: PLR2004
        raise UserError(
            f"{INPUT_NAME} has shape {tensor.shape}, expected [N, {size}, {size}, 3], N >= 1"
        )
    _check_count(tensor.shape[0], most)
    content = _binary_of(tensor, binary)
    if content is not None:
        if len(content) != math.prod(tensor.shape):
            raise UserError(
                f"{INPUT_NAME} has {len(content)} bytes, its shape needs {math.prod(tensor.shape)}"
            )
        return np.frombuffer(content, np.uint8).reshape(tensor.shape)
    return _images_of_json(bytes(tensor.data), tensor.shape)


def pictures_in(request: V2Request, binary: memoryview, *, most: int) -> list[bytes]:
    """The files of pictures in a request for NAME-encoded; in JSON they are base64.

    Raises:
        UserError: it has other tensors than one of BYTES (N) or (N, 1).
        HTTPException: with status 413, if there are more than `most` pictures.
    """
    tensor = _only_input(request, ENCODED_NAME, ENCODED_TYPE)
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]) or tensor.shape[0] < 1:
        raise UserError(f"{ENCODED_NAME} has shape {tensor.shape}, expected [N, 1] or [N], N >= 1")
    _check_count(tensor.shape[0], most)
    content = _binary_of(tensor, binary)
    pictures = _pictures_of_json(bytes(tensor.data)) if content is None else _elements(content)
    if len(pictures) != tensor.shape[0]:
        raise UserError(
            f"{ENCODED_NAME} has {len(pictures)} pictures, its shape says {tensor.shape[0]}"
        )
    return pictures


def _whole_body(body: bytes, *, size: int, encoded: bool) -> tuple[V2Request, memoryview]:
    """The request that a body without JSON stands for: one picture, or whole images."""
    if encoded:
        name, datatype, shape = ENCODED_NAME, ENCODED_TYPE, [1, 1]
        body = struct.pack("<I", len(body)) + body
    else:
        edge = size * size * 3
        name, datatype, shape = INPUT_NAME, IMAGES_TYPE, [-(-len(body) // edge), size, size, 3]
    parameters = {_BINARY_SIZE: len(body)}
    tensor = V2Input(name=name, shape=shape, datatype=datatype, parameters=parameters)
    return V2Request(inputs=[tensor]), memoryview(body)


def _length(text: str, most: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) <= most:
        return int(text)
    raise UserError(
        f"Inference-Header-Content-Length is {text[:20]!r}, expected the bytes of JSON in the "
        f"body, at most {most}"
    )


def _only_input(request: V2Request, name: str, datatype: str) -> V2Input:
    """The one input of the model, which has this name and type."""
    names = [tensor.name[:100] for tensor in request.inputs]
    if names != [name]:
        raise UserError(f"received the inputs {names}, expected one input, {name!r} of {datatype}")
    tensor = request.inputs[0]
    if tensor.datatype != datatype:
        raise UserError(f"{name} is {tensor.datatype[:20]!r}, expected {datatype}")
    return tensor


def _binary_of(tensor: V2Input, binary: memoryview) -> memoryview | None:
    """The bytes of the tensor behind the JSON; None if its values are in the JSON."""
    parameters = tensor.parameters or {}
    if "shared_memory_region" in parameters:
        raise UserError("this server shares no memory with clients; send the data in the body")
    size = parameters.get(_BINARY_SIZE)
    has_data = bytes(tensor.data) not in (b"", b"null")
    if size is None:
        if not has_data:
            raise UserError(f"{tensor.name} has neither data nor {_BINARY_SIZE}")
        if binary:
            raise UserError(f"{len(binary)} bytes follow the JSON, but no input has {_BINARY_SIZE}")
        return None
    if has_data:
        raise UserError(f"{tensor.name} has both data and {_BINARY_SIZE}; expected one of them")
    if not isinstance(size, int) or isinstance(size, bool) or size != len(binary):
        raise UserError(
            f"{_BINARY_SIZE} is {str(size)[:20]}, and {len(binary)} bytes follow the JSON"
        )
    return binary


def _images_of_json(data: bytes, shape: list[int]) -> NDArray[np.uint8]:
    # Counted before they are decoded, because each number takes more memory than its text.
    count, expected = data.count(b",") + 1, math.prod(shape)
    if count != expected:
        raise UserError(f"{INPUT_NAME} has {count} values, its shape needs {expected}")
    if data.translate(None, _NO_STRUCTURE) not in (_nested([count]), _nested(shape)):
        raise UserError(f"the data of {INPUT_NAME} are nested otherwise than flat or as {shape}")
    try:
        values = b"".join(_pieces(data.translate(_NO_BRACKETS)))
    except (msgspec.DecodeError, ValueError) as error:
        raise UserError(
            f"the data of {INPUT_NAME} are not integers from 0 to 255: {error}"
        ) from error
    return np.frombuffer(values, np.uint8).reshape(shape)


def _nested(shape: list[int]) -> bytes:
    """The brackets and commas of nested lists of this shape."""
    found = b""
    for size in reversed(shape):
        found = b"[%b]" % ((found + b",") * size)[:-1]
    return found


def _pieces(numbers: bytes) -> Iterator[bytes]:
    """The bytes that are written in `numbers`, between commas.

    They are read in pieces, because Python's other threads, such as the one that answers all
    requests, wait while a piece is read. Nothing is nested here any more: numpy took 3 s for the
    nested lists of 32 images of 224 pixels.
    """
    start = 0
    while start < len(numbers):
        stop = numbers.find(b",", start + _PIECE)
        stop = len(numbers) if stop == -1 else stop
        yield bytes(_flat_bytes.decode(b"[%b]" % numbers[start:stop]))
        start = stop + 1


def _pictures_of_json(data: bytes) -> list[bytes]:
    try:
        values = _texts.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"the data of {ENCODED_NAME} are not a list of base64 texts: {error}"
        ) from error
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    try:
        return [b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"the data of {ENCODED_NAME} are not base64 ({error}); in JSON, files of pictures are "
            "base64, and binary data need none"
        ) from error


def _elements(content: memoryview) -> list[bytes]:
    """The elements of a BYTES tensor: each has 4 bytes of its length before it, little endian."""
    found: list[bytes] = []
    place = 0
    while place < len(content):
        start = place + 4
        if start > len(content):
            raise UserError(f"the bytes of {ENCODED_NAME} end within the length of an element")
        (length,) = struct.unpack_from("<I", content, place)
        place = start + length
        if place > len(content):
            raise UserError(
                f"element {len(found)} of {ENCODED_NAME} has {length} bytes by its length, and "
                f"{len(content) - start} follow"
            )
        found.append(bytes(content[start:place]))
    return found


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise HTTPException(413, f"{count} images in one request, the limit is {most}; send fewer")
