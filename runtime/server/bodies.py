"""From a request to the images in it, within the limits of memory and time."""

from collections.abc import AsyncGenerator

from anyio import fail_after
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from runtime.base.errors import OverloadedError
from runtime.server.forms import FormFiles, NamedImage
from runtime.server.settings import ServerSettings

RAW_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/*",
    "application/octet-stream",
)
FORM_TYPE = "multipart/form-data"


class BodyBudget:
    """The bytes of all bodies together, so that many large requests cannot fill the memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserves `size` bytes; OverloadedError when the other requests leave too few."""
        if self.used + size > self.limit:
            raise OverloadedError(f"requests of {self.used} bytes are being answered; try again")
        self.used += size

    def give_back(self, size: int) -> None:
        self.used -= size


class BodyReader:
    """Reads one request's body, counted against its own limit and the common budget."""

    def __init__(self, request: Request, settings: ServerSettings, budget: BodyBudget) -> None:
        self._request = request
        self._settings = settings
        self._budget = budget
        self._taken = 0

    async def images(self) -> list[NamedImage]:
        """The images of the request, one or many; HTTPException for anything else."""
        content_type = self._request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        if kind != FORM_TYPE and not kind.startswith("image/") and kind not in RAW_TYPES:
            raise HTTPException(
                415,
                f"received content type {kind or 'none'!r}; "
                f"expected an image type, application/octet-stream or {FORM_TYPE}",
            )
        encoding = self._request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise HTTPException(
                415,
                f"received content encoding {encoding!r}; send the image as it is",
                headers={"Accept-Encoding": "identity"},
            )
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal():
            self._check_size(int(announced))
        limit = self._settings.timeout_seconds
        try:
            with fail_after(limit):
                return await (self._form(content_type) if kind == FORM_TYPE else self._raw())
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body did not arrive within {limit:g} s",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before its body was complete") from None

    def release(self) -> None:
        """Gives the bytes back to the budget, once the images are answered."""
        self._budget.give_back(self._taken)
        self._taken = 0

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._request.stream():
            self._budget.take(len(chunk))
            self._taken += len(chunk)
            self._check_size(self._taken)
            yield chunk

    async def _raw(self) -> list[NamedImage]:
        return [NamedImage("image", b"".join([chunk async for chunk in self._chunks()]))]

    async def _form(self, content_type: str) -> list[NamedImage]:
        form = FormFiles(content_type, max_files=self._settings.max_images)
        async for chunk in self._chunks():
            form.write(chunk)
        return form.finish()

    def _check_size(self, size: int) -> None:
        if size > self._settings.max_body_bytes:
            raise HTTPException(
                413,
                f"the body has over {self._settings.max_body_bytes} bytes, the limit; send less",
                headers={"Connection": "close"},  # the rest of the body is not read
            )
