"""What the server accepts, and for how long it waits."""

import msgspec

MEMORY_BYTES = 256 << 20


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one request and of all requests together."""

    max_body_bytes: int = 32 << 20
    max_images: int = 32  # in one request
    max_memory_bytes: int = MEMORY_BYTES  # of all bodies that are being received or answered
    timeout_seconds: float = 30.0  # to receive a request, and again to answer it
    token: str | None = None  # None: open to all who can connect
