"""Handlers that speak HTTP: `f(request)` or `f(request, context)`, which returns what to answer.

The adapters of this file, `_wsgi` and `_asgi` are all the same to the runtime's loop: a function of the body and
of the request's head, that gives the reply and what stands before it.
"""

import json
from urllib.parse import parse_qs, unquote

from warmpath._wait import Wait

REPLY_BYTES_MAX = 65536


class Request:
    """A request of HTTP.

    method   "GET", "POST", …
    base     what the path began with: "/run/hello"
    path     the rest of the path, without escapes; begins with a slash
    query    what stands behind the question mark, as it was sent
    headers  list of (name, value), names in lower case
    body     bytes
    """

    __slots__ = ("method", "base", "path", "raw_path", "query", "headers", "body")

    def __init__(self, head, body):
        self.method = head["method"]
        self.base = head["base"]
        self.raw_path = head["path"]
        self.path = unquote(head["path"])
        self.query = head["query"]
        self.headers = [(name, value) for name, value in head["headers"]]
        self.body = body

    def header(self, name, default=None):
        """The value of the first header of that name."""
        name = name.lower()
        return next((value for key, value in self.headers if key == name), default)

    def parameters(self):
        """The query, as a dict of lists."""
        return parse_qs(self.query, keep_blank_values=True)

    def json(self):
        """The body, decoded as JSON."""
        return json.loads(self.body)


class Response:
    """What to answer: bytes and text as they are, everything else as JSON."""

    __slots__ = ("body", "status", "headers")

    def __init__(self, body=b"", status=200, headers=()):
        self.body = body
        self.status = status
        self.headers = list(headers.items()) if isinstance(headers, dict) else list(headers)


def adapter(function):
    """The handler `function` for the runtime's loop."""
    return lambda body, head: _answer(function(Request(head, body)))


def async_adapter(function):
    """The same for an `async def`."""

    async def run(body, head):
        return _answer(await function(Request(head, body)))

    return run


def _answer(answer):
    if isinstance(answer, Wait):
        return answer, None
    if isinstance(answer, tuple) and len(answer) == 3:
        status, headers, content = answer
        answer = Response(content, status, headers)
    elif not isinstance(answer, Response):
        answer = Response(answer)
    content, kind = _encoded(answer.body)
    headers = [[str(name).lower(), str(value)] for name, value in answer.headers]
    if kind and all(name != "content-type" for name, _ in headers):
        headers.append(["content-type", kind])
    return content, {"status": int(answer.status), "headers": headers}


def _encoded(body):
    if body is None:
        return b"", None
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), "application/json"


class Body:
    """A reply that comes in pieces."""

    def __init__(self):
        self._pieces = []
        self._length = 0

    def add(self, piece):
        """Keeps a piece, if the whole still fits a message."""
        self._length += len(piece)
        if self._length > REPLY_BYTES_MAX:
            raise ValueError(f"the reply is longer than {REPLY_BYTES_MAX} bytes")
        self._pieces.append(bytes(piece))

    def bytes(self):
        """The whole."""
        return b"".join(self._pieces)
