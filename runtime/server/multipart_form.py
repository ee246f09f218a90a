"""The files of a multipart/form-data body (RFC 7578), collected while it arrives."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

_NAME_LENGTH = 255
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]*)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class NamedImage:
    """The name and the content of an uploaded file, which is not decoded yet."""

    name: str
    content: bytes


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
        self._before = b"\n"  # what was read last of the preamble; the body's start is a line's
        self._begun = False
        self._files: list[tuple[str, bytearray]] = []
        self._header = b""  # name of the header that is being read
        self._value = b""
        self._disposition = b""
        self._complete = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _malformed("the content type names no boundary")
        self._first_line = b"\n--" + boundary
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
        chunk = self._without_preamble(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> list[NamedImage]:
        """The files in order; called when the whole body has been written.

        Raises:
            HTTPException: with status 400 if the body is incomplete, 422 if it has no file.
        """
        if not self._begun:
            raise _malformed("no line of it begins with the boundary")
        if not self._complete:
            raise _malformed("the last boundary is missing")
        if not self._files:
            raise HTTPException(422, "the form has no file; expected one or more")
        return [NamedImage(name, bytes(content)) for name, content in self._files]

    def _without_preamble(self, chunk: bytes) -> bytes:
        """The chunk from the first boundary on; RFC 2046 lets text come before that."""
        if self._begun:
            return chunk
        chunk = self._before + chunk
        place = chunk.find(self._first_line)
        if place == -1:
            self._before = chunk[-len(self._first_line) + 1 :]
            return b""
        self._begun = True
        return chunk[place + 1 :]

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
