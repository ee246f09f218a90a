"""From the body of a request to the images in it, within the limits of memory and time."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from anyio import fail_after
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from runtime.server.admission import BodyBudget, ServerSettings
from runtime.server.bounded_http import is_received
from runtime.server.multipart_form import FormFiles, NamedImage

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
