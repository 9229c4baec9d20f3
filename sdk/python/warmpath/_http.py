"""Handlers that speak HTTP: `f(request)` or `f(request, context)`, which returns what to answer.

The adapters of this file, `_wsgi` and `_asgi` are all the same to the runtime's loop: a function of the body and
of the request's head, that gives the reply and what stands before it.
"""

import inspect
import json
from urllib.parse import parse_qs, unquote

from warmpath._stream import Pieces, PlainInput, is_iterator
from warmpath._wait import Wait

class Request:
    """A request of HTTP.

    method   "GET", "POST", …
    base     what the path began with: "/run/hello"
    path     the rest of the path, without escapes; begins with a slash
    query    what stands behind the question mark, as it was sent
    headers  list of (name, value), names in lower case
    body     bytes; of a body that follows, all of it once it is asked for
    stream   the body as a file, whose `pieces()`, or `async for`, gives it as it comes
    """

    __slots__ = ("method", "base", "path", "raw_path", "query", "headers", "_body", "_stream")

    def __init__(self, head, body):
        self.method = head["method"]
        self.base = head["base"]
        self.raw_path = head["path"]
        self.path = unquote(head["path"])
        self.query = head["query"]
        self.headers = [(name, value) for name, value in head["headers"]]
        self._body = body if isinstance(body, bytes) else None
        self._stream = None if isinstance(body, bytes) else body

    @property
    def body(self):
        if self._body is None:
            self._body = self._stream.read()
        return self._body

    @property
    def stream(self):
        if self._stream is None:
            self._stream = PlainInput(self._body)
        return self._stream

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
    """The same for an `async def`, also one that yields."""

    async def run(body, head):
        returned = function(Request(head, body))
        return _answer(await returned if inspect.isawaitable(returned) else returned)

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
    if is_iterator(body):
        return Pieces(body), "application/octet-stream"
    if body is None:
        return b"", None
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), "application/json"
