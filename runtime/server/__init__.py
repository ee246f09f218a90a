"""The HTTP API over a Batcher; needs the extra `serve`."""

from runtime.server.api import build_api
from runtime.server.settings import ServerSettings

__all__ = ["ServerSettings", "build_api"]
