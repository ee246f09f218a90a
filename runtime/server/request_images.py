"""From the body of a request to the images in it, within the limits of memory and time."""

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from anyio import fail_after
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from runtime.server.admission import BodyBudget, ServerSettings
from runtime.server.bounded_http import is_received

RAW_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/gif",
    "image/tiff",
    "image/avif",
    "image/heic",
    "image/*",
    "application/octet-stream",
)
FORM_TYPE = "multipart/form-data"
Read = TypeVar("Read")
_NAME_LENGTH = 255
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]*)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class NamedImage:
    """The name and the content of an uploaded file, which is not decoded yet."""

    name: str
    content: bytes


class BodyReader:
    """Reads the body of one request, within its own limit and the budget of all bodies."""

    def __init__(self, request: Request, settings: ServerSettings, budget: BodyBudget) -> None:
        """Reads nothing yet.

        Args:
            request: whose body is read.
            settings: the limits of one request.
            budget: counts the bytes of all requests.
        """
        self._request = request
        self._settings = settings
        self._budget = budget
        self._taken = 0

    async def images(self) -> list[NamedImage]:
        """The images of the request, one or many.

        Raises:
            HTTPException: with status 400, 408, 413, 415 or 422, for anything else.
            OverloadedError: the bodies of other requests leave too few bytes.
        """
        content_type = self._request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        if kind != FORM_TYPE and not kind.startswith("image/") and kind not in RAW_TYPES:
            raise HTTPException(
                415,
                f"received content type {kind or 'none'!r}; "
                f"expected an image type, application/octet-stream or {FORM_TYPE}",
            )
        # An empty one, as some proxies leave it, is none.
        encoding = ", ".join(self._request.headers.getlist("content-encoding")).strip().lower()
        if any(part.strip() not in ("", "identity") for part in encoding.split(",")):
            raise HTTPException(
                415,
                f"received content encoding {encoding!r}; send the image as it is",
                headers={"Accept-Encoding": "identity"},
            )
        return await self._in_time(self._form(content_type) if kind == FORM_TYPE else self._raw())

    async def whole(self) -> bytes:
        """The body as it is.

        Raises:
            HTTPException: with status 400, 408 or 413.
            OverloadedError: the bodies of other requests leave too few bytes.
        """
        return await self._in_time(self._joined())

    def count(self, size: int) -> None:
        """Counts bytes that were made of the body until `release`, such as those of a gzip body.

        Raises:
            OverloadedError: the bodies of other requests leave too few.
        """
        self._budget.take(size)
        self._taken += size

    async def _in_time(self, reading: Coroutine[Any, Any, Read]) -> Read:
        """The result of `reading` the body, if it comes within the limits of size and time."""
        announced = self._request.headers.get("content-length", "")
        limit = self._settings.timeout_seconds
        try:
            if announced.isdecimal():
                self._check_size(int(announced))
            if is_received(self._request.scope):
                return await reading  # without a time limit, since it waits for nothing
            with fail_after(limit):
                return await reading
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body did not arrive within {limit:g} s",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its body was complete") from None
        finally:
            reading.close()

    def release(self) -> None:
        """Gives the bytes back to the budget; called when the images are answered."""
        self._budget.give_back(self._taken)
        self._taken = 0

    async def _feed(self, take: Callable[[bytes], object]) -> None:
        """Gives the body to `take`, piece by piece, as it comes."""
        more = True
        while more:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            self.count(len(piece))
            self._check_size(self._taken)
            if piece:
                take(piece)

    async def _joined(self) -> bytes:
        pieces: list[bytes] = []
        await self._feed(pieces.append)
        return b"".join(pieces)

    async def _raw(self) -> list[NamedImage]:
        return [NamedImage("image", await self._joined())]

    async def _form(self, content_type: str) -> list[NamedImage]:
        form = FormFiles(content_type, max_files=self._settings.max_images)
        await self._feed(form.write)
        return form.finish()

    def _check_size(self, size: int) -> None:
        if size > self._settings.max_body_bytes:
            raise HTTPException(
                413,
                f"the body has over {self._settings.max_body_bytes} bytes, the limit; send less",
                headers={"Connection": "close"},  # the rest of the body is not read
            )


class FormFiles:
    """Collects the files of one multipart/form-data body (RFC 7578) as it arrives, in memory.

    All its errors are HTTPException with status 400, 413 or 422.
    """

    def __init__(self, content_type: str, *, max_files: int) -> None:
        """Prepares for the body.

        Args:
            content_type: the header that names the boundary between the parts.
            max_files: how many files the form may have.

        Raises:
            HTTPException: with status 400, if the header names no boundary.
        """
        self._max_files = max_files
        self._files: list[tuple[str, bytearray]] = []
        self._header = b""  # name of the header that is being read
        self._value = b""
        self._disposition = b""
        self._complete = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _malformed("the content type names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def write(self, chunk: bytes) -> None:
        """Takes the next bytes of the body.

        Raises:
            HTTPException: with status 400 if the form is malformed, 413 if it has too many files,
                422 if a part is not a file.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> list[NamedImage]:
        """The files in order; called when the whole body has been written.

        Raises:
            HTTPException: with status 400 if the body is incomplete, 422 if it has no file.
        """
        if not self._complete:
            raise _malformed("the last boundary is missing")
        if not self._files:
            raise HTTPException(422, "the form has no file; expected one or more")
        return [NamedImage(name, bytes(content)) for name, content in self._files]

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part has no Content-Disposition: form-data with a name")
        extended = _extended_name(self._disposition)
        if b"filename" not in options and extended is None:
            field = _clean(options[b"name"]) or "without a name"
            raise HTTPException(422, f"the field {field} is not a file; send only files")
        if len(self._files) == self._max_files:
            raise HTTPException(
                413,
                f"more than {self._max_files} images in one request; send fewer",
                headers={"Connection": "close"},  # the rest of the body is not read
            )
        name = _clean(extended or options.get(b"filename", b"")) or f"image {len(self._files)}"
        self._files.append((name, bytearray()))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._files[-1][1].extend(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._complete = True


def _extended_name(disposition: bytes) -> bytes | None:
    """The name in `filename*=UTF-8''r%C3%B6t.png` (RFC 8187), in UTF-8; None if there is none.

    RFC 7578 forbids it in forms, and yet clients send it, alone or beside `filename`, which then
    is a copy in ASCII. It is empty if it cannot be decoded.
    """
    found = _EXTENDED.search(_QUOTED.sub(b'""', disposition))
    if found is None:
        return None
    try:
        return unquote_to_bytes(found[2]).decode(found[1].decode("ascii")).encode()
    except (LookupError, UnicodeError):  # an unknown character set, or other bytes
        return b""


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"not a valid multipart/form-data body: {reason}")


def _clean(name: bytes) -> str:
    """A name that is safe in a message: without control characters, and not too long."""
    return _UNPRINTABLE.sub("", name.decode(errors="replace"))[:_NAME_LENGTH]
