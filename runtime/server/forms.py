"""The files of a multipart/form-data body, parsed as it arrives and kept in memory."""

import re
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

_NAME_LENGTH = 255
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class NamedImage:
    """The content of an uploaded file; not decoded yet."""

    name: str
    content: bytes


class FormFiles:
    """Collects the files of one form. All its errors are HTTPException: 400, 413 or 422."""

    def __init__(self, content_type: str, *, max_files: int) -> None:
        """`content_type` is the header that names the boundary between the parts."""
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
        """Takes the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> list[NamedImage]:
        """The files, in order, once the whole body has been written."""
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
        if b"filename" not in options:
            field = _clean(options[b"name"]) or "without a name"
            raise HTTPException(422, f"the field {field} is not a file; send only files")
        if len(self._files) == self._max_files:
            raise HTTPException(
                413,
                f"more than {self._max_files} images in one request; send fewer",
                headers={"Connection": "close"},  # the rest of the body is not read
            )
        name = _clean(options[b"filename"]) or f"image {len(self._files)}"
        self._files.append((name, bytearray()))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._files[-1][1].extend(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self._complete = True


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"not a valid multipart/form-data body: {reason}")


def _clean(name: bytes) -> str:
    """A name that is safe in a message: no control characters, not too long."""
    return _UNPRINTABLE.sub("", name.decode(errors="replace"))[:_NAME_LENGTH]
