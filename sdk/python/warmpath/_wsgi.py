"""WSGI applications (PEP 3333): Flask, Django, or any callable of `environ` and `start_response`."""

import io
import sys
from urllib.parse import unquote_to_bytes

from warmpath import _http


def adapter(application):
    """The application for the runtime's loop."""

    def run(body, head):
        return _Exchange().run(application, _environ(head, body))

    return run


class _Exchange:
    """One call of an application."""

    def __init__(self):
        self._head = None
        self._body = _http.Body()

    def run(self, application, environ):
        pieces = application(environ, self._start)
        try:
            for piece in pieces:
                self._body.add(piece)
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        if self._head is None:
            raise RuntimeError("the application has not called start_response")
        return self._body.bytes(), self._head

    def _start(self, status, headers, exc_info=None):
        if exc_info is None and self._head is not None:
            raise RuntimeError("start_response was called twice without exc_info")
        # Nothing has been sent yet, whatever was written: an error page may still take the place of the first head.
        self._head = {
            "status": int(status.split(" ", 1)[0]),
            "headers": [[name.lower(), value] for name, value in headers],
        }
        return self._body.add


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
        "wsgi.input": io.BytesIO(body),
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
    if body:
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
