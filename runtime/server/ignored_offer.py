"""A parser for the rest of a request that offered another protocol, which ends uvicorn's parser."""

from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def parser_behind_head(
    protocol: HttpToolsProtocol, method: bytes
) -> tuple[Any, Callable[[], None]]:
    """A new parser, and what tells it the head of the request again without its offer.

    Args:
        protocol: gets what follows that head, and knows the head already. The parser must be its
            own before the head is told: a request without a body ends there.
        method: of the request.
    """
    headers = (b"%b: %b\r\n" % header for header in protocol.headers if header[0] != b"upgrade")
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, protocol.url, b"".join(headers))
    callbacks = _CallbacksAfterHead(protocol)
    parser = httptools.HttpRequestParser(callbacks)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def tell_head() -> None:
        parser.feed_data(head)
        callbacks.head_is_known = False

    return parser, tell_head


class _CallbacksAfterHead:
    """What a parser calls: nothing for the head of its first request, then the protocol."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self.head_is_known = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
        self.on_message_begin = self._unless_known(protocol.on_message_begin)
        self.on_url = self._unless_known(protocol.on_url)
        self.on_header = self._unless_known(protocol.on_header)
        self.on_headers_complete = self._unless_known(protocol.on_headers_complete)

    def _unless_known(self, callback: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: bytes) -> None:
            if not self.head_is_known:
                callback(*arguments)

        return call
