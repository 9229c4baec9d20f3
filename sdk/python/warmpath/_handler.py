"""The function of a bundle, from its file to something that takes bytes and gives bytes."""

import importlib.util
import inspect
import json
import os
import sys
import types

from warmpath import _http, _packages, _stream
from warmpath._context import alone, context
from warmpath._wait import Wait

HANDLER_DIR = "/handler"
HANDLER_NAME = "f"

# A third of the way through `json.loads`, for what is written as nearly everything is.
_decode_json = json.JSONDecoder().raw_decode
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class BadFunction(Exception):
    """The bundle does not hold what its manifest says."""


class Handler:
    """A loaded function, for the loop: from the event (or the `_stream.Input` of one that follows) and the head of its
    HTTP request, if any, to the reply (or its `_stream.Pieces`, or the wait that the handler returned instead) and what
    stands before it.

    run        does that
    run_async  does it as a coroutine; None unless the function is an `async def`
    imports    what its module imported (`_packages.Recorder`)
    """

    __slots__ = ("imports", "run", "run_async")

    def __init__(self, run=None, run_async=None):
        self.imports = []
        self.run = run
        self.run_async = run_async


def load(meta):
    """Loads what a load frame asks for; the module's top level runs here."""
    context.worker = meta["worker"]
    context.instance = meta["instance"]
    alone.function = meta["function"]
    if "env" in meta:
        os.environ.update(meta["env"])
    os.chdir(HANDLER_DIR)
    # The standard library comes first of all but the function's own code, as in any Python.
    sys.path.insert(0, HANDLER_DIR)
    _packages.search(meta.get("layers", ()))
    entry = meta["entry"]
    path = os.path.join(HANDLER_DIR, entry)
    name = os.path.splitext(os.path.basename(entry))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise BadFunction(f"{entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _packages.Recorder() as recorder:
        spec.loader.exec_module(module)
    handler = _of(module, meta)
    handler.imports = recorder.report()
    return handler


def _of(module, meta):
    """The handler that the module holds, as its interface says."""
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

        return Handler((_wsgi if interface == "wsgi" else _asgi).adapter(application))
    function = getattr(module, HANDLER_NAME, None)
    if not callable(function):
        what = "request" if interface == "http" else "event"
        raise BadFunction(f"{entry} defines no function {HANDLER_NAME}({what})")
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    handler = _with_context(function) if _takes_context(function) else function
    if interface == "http":
        return Handler(run_async=_http.async_adapter(handler)) if is_async else Handler(_http.adapter(handler))
    decode, encode = _CODECS[meta["payload"]]
    if meta["interface"] == "auto":
        decode = _as_openlambda

    kind = _KINDS[meta["payload"]]

    def reply(returned):
        if _stream.is_iterator(returned):
            return _stream.of_event(returned, kind)
        return (returned if isinstance(returned, Wait) else encode(returned)), None

    def run(event, _head):
        return reply(handler(decode(_stream.whole(event))))

    async def run_async(event, _head):
        returned = handler(decode(await _stream.whole_async(event)))
        return reply(await returned if inspect.isawaitable(returned) else returned)

    return Handler(run_async=run_async) if is_async else Handler(run)


def _with_context(function):
    return lambda event: function(event, context)


def _takes_context(function):
    """Whether a second argument has to be given."""
    if type(function) is types.FunctionType and not function.__dict__:
        # What nearly every handler is, at a tenth of the time that a signature takes: nothing was hung on it that a signature
        # would follow (`__wrapped__`, `__signature__`).
        return function.__code__.co_argcount - len(function.__defaults__ or ()) >= 2
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return len(needed) >= 2


def _from_json(event):
    if not event:
        return None
    try:
        value, end = _decode_json(text := event.decode())
        if end == len(text):
            return value
    except ValueError:
        pass
    # White space around it, another encoding, or no JSON: this takes all of them, or says what is wrong.
    return json.loads(event)


def _as_openlambda(event):
    """There a request without a body has an event all the same."""
    return _from_json(event) if event else {}


def _to_json(reply):
    return _encode_json(reply).encode()


def _as_it_is(event):
    return event


def _to_bytes(reply):
    if not isinstance(reply, (bytes, bytearray)):
        kind = type(reply).__name__
        raise TypeError(f"payload is bytes, so the handler must return bytes, not {kind}")
    return bytes(reply)


# What the pieces of a reply are called.
_KINDS = {"json": "text/plain; charset=utf-8", "bytes": "application/octet-stream"}
_CODECS = {"json": (_from_json, _to_json), "bytes": (_as_it_is, _to_bytes)}
