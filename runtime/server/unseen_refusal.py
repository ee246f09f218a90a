"""The answer to a request that is refused before any application sees it."""

import http
import json


def refusal(status: int, detail: str) -> bytes:
    """A whole answer with a problem (RFC 9457), behind which the connection ends."""
    title = http.HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
