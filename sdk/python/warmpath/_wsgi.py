"""WSGI applications (PEP 3333): Flask, Django, or any callable of `environ` and `start_response`."""

import io
import sys
from urllib.parse import unquote_to_bytes

from warmpath._stream import Joined, Pieces


def adapter(application):
    """The application for the runtime's loop."""

    def run(body, head):
        return _Exchange().run(application, _environ(head, body))

    return run


class _Exchange:
    """One call of an application."""

    def __init__(self):
        self._head = None
        self._is_sent = False
        self._written = Joined()

    def run(self, application, environ):
        returned = application(environ, self._start)
        pieces = self._pieces(returned)
        # The head need not be there before the first piece that is not empty (PEP 3333).
        try:
            first = next(pieces, b"")
            if self._head is None:
                raise RuntimeError("the application has not called start_response")
        except BaseException:
            pieces.close()
            raise
        self._is_sent = True
        length = _length_of(returned) if first else 0
        return Pieces(_Chain(first, pieces), length or self._declared()), self._head

    def _pieces(self, returned):
        try:
            iterator = iter(returned)
            for piece in iterator:
                if written := self._written.bytes():
                    self._written = Joined()
                    yield written
                if piece:
                    yield piece
            if written := self._written.bytes():
                yield written
        finally:
            close = getattr(returned, "close", None)
            if close is not None:
                close()

    def _declared(self):
        """What Content-Length says: with it a short reply goes out in one piece."""
        lengths = [value for name, value in self._head["headers"] if name == "content-length"]
        return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else None

    def _start(self, status, headers, exc_info=None):
        if exc_info is None and self._head is not None:
            raise RuntimeError("start_response was called twice without exc_info")
        if self._is_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        # An error page may take the place of a head that has not been sent, and of what was written behind it.
        self._written = Joined()
        self._head = {
            "status": int(status.split(" ", 1)[0]),
            "headers": [[name.lower(), value] for name, value in headers],
        }
        return lambda piece: self._written.add(piece)


class _Chain:
    """A piece and those behind it. To be closed, which what `itertools` has cannot."""

    def __init__(self, first, rest):
        self._first = first
        self._rest = rest

    def __iter__(self):
        return self

    def __next__(self):
        first, self._first = self._first, None
        return first if first is not None else next(self._rest)

    def close(self):
        self._rest.close()


def _length_of(returned):
    """How long a list of pieces is together."""
    return sum(map(len, returned)) if isinstance(returned, (list, tuple)) else None


def _environ(head, body):
    environ = {
        "REQUEST_METHOD": head["method"],
        "SCRIPT_NAME": _text(head["base"]),
        "PATH_INFO": _text(head["path"]),
        "QUERY_STRING": head["query"],
        "RAW_URI": head["base"] + head["path"],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head["headers"]:
        # With an underscore it would pass for the one with a hyphen.
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        # Several of one name are one list; cookies have a separator of their own.
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = environ[key] + separator + value if key in environ else value
    if isinstance(body, bytes) and body:
        # It may have come in chunks, without a length.
        environ["CONTENT_LENGTH"] = str(len(body))
    host, _, port = environ.get("HTTP_HOST", "").rpartition(":")
    if host and port.isdigit():
        environ["SERVER_NAME"], environ["SERVER_PORT"] = host, port
    elif environ.get("HTTP_HOST"):
        environ["SERVER_NAME"] = environ["HTTP_HOST"]
    return environ


def _text(path):
    """Bytes as WSGI wants them: each a character."""
    return unquote_to_bytes(path).decode("latin-1")
