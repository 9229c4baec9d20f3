"""The loop of an instance: load the function once, then serve one request after the other."""

import importlib.util
import inspect
import json
import os
import sys
import traceback

from warmpath import _db, _exec, _http, _wire
from warmpath._context import context
from warmpath._wait import Wait

HANDLER_DIR = "/handler"
LAYERS_DIR = "/layers"
HANDLER_NAME = "f"


class BadFunction(Exception):
    """The bundle does not hold what its manifest says."""


def serve(connection):
    """Serves until the worker closes the socket. Never returns to the zygote's code."""
    # A process that the handler forks must not answer for it.
    os.register_at_fork(after_in_child=lambda: _disown(connection))
    connection.send(_wire.READY)
    try:
        kind, meta, _ = connection.receive()
        if kind != _wire.LOAD:
            raise _wire.Closed
        try:
            run = _exec.become(meta) if "exec" in meta else _load(meta)
        except BaseException as error:  # the module's top level may raise anything
            _fail(connection, error)
            return
        connection.send(_wire.READY)
        while True:
            kind, meta, event = connection.receive()
            if kind == _wire.INVOKE:
                _invoke(connection, run, meta, event)
    except _wire.Closed:
        pass


def _load(meta):
    """The function, as the event and the head of its HTTP request, if any, to the reply and what stands before it."""
    context.worker = meta["worker"]
    context.instance = meta["instance"]
    context.function = meta["function"]
    os.chdir(HANDLER_DIR)
    # The standard library comes first of all but the function's own code, as in any Python.
    sys.path.insert(0, HANDLER_DIR)
    sys.path.extend(f"{LAYERS_DIR}/{name}" for name in meta.get("layers", ()))
    entry = meta["entry"]
    path = os.path.join(HANDLER_DIR, entry)
    name = os.path.splitext(os.path.basename(entry))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise BadFunction(f"{entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return _adapter(module, meta)


def _adapter(module, meta):
    """What the module's function or application is to the loop, as its interface says."""
    interface, entry, app = meta["interface"], meta["entry"], meta["app"]
    if interface == "auto":
        if hasattr(module, HANDLER_NAME) or not hasattr(module, app):
            interface = "event"
        else:
            from warmpath import _asgi

            interface = "asgi" if _asgi.is_asgi(getattr(module, app)) else "wsgi"
    if interface in ("wsgi", "asgi"):
        application = getattr(module, app, None)
        if not callable(application):
            raise BadFunction(f"{entry} defines no application {app}")
        from warmpath import _asgi, _wsgi

        return (_wsgi if interface == "wsgi" else _asgi).adapter(application)
    function = getattr(module, HANDLER_NAME, None)
    if not callable(function):
        what = "request" if interface == "http" else "event"
        raise BadFunction(f"{entry} defines no function {HANDLER_NAME}({what})")
    if _takes_context(function):
        handler = lambda event: function(event, context)  # noqa: E731
    else:
        handler = function
    if interface == "http":
        return _http.adapter(handler)
    return _bytes_handler(handler) if meta["payload"] == "bytes" else _json_handler(handler)


def _takes_context(function):
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return len(needed) >= 2


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json_handler(handler):
    def run(event, _head):
        reply = handler(json.loads(event) if event else None)
        return (reply if isinstance(reply, Wait) else _encode(reply).encode()), None

    return run


def _bytes_handler(handler):
    def run(event, _head):
        reply = handler(event)
        if isinstance(reply, Wait):
            return reply, None
        if not isinstance(reply, (bytes, bytearray)):
            kind = type(reply).__name__
            raise TypeError(f"payload is bytes, so the handler must return bytes, not {kind}")
        return bytes(reply), None

    return run


def _invoke(connection, run, meta, event):
    context._begin(meta)
    _db._connection = connection
    try:
        reply, said = run(event, meta.get("http"))
    except BaseException as error:  # sys.exit() in a handler is an error of that request
        _fail(connection, error)
        return
    finally:
        _db._connection = None
        _flush()
    if isinstance(reply, Wait):
        connection.send(_wire.WAIT, reply.meta)
    else:
        connection.send(_wire.RESULT, said, reply)


def _fail(connection, error):
    """Tells the worker what the handler raised; the traceback goes to the log."""
    try:
        # Frames of this file are not the handler's business.
        own = _fail.__code__.co_filename
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != own]
        lines = traceback.format_list(frames) + traceback.format_exception_only(error)
        sys.stderr.write("Traceback (most recent call last):\n" + "".join(lines))
        message = str(error)
    except Exception:  # a broken __str__, a closed stderr
        message = "(no message)"
    _flush()
    # Bounded, as every reply is.
    meta = {"kind": type(error).__name__[:128], "message": message[:4096]}
    connection.send(_wire.ERROR, meta)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the handler may have closed or replaced it
            pass


def _disown(connection):
    _db._connection = None
    connection.close()
