"""ASGI applications (asgi.readthedocs.io, version 3): FastAPI, Starlette, or any coroutine of three arguments.

The application has one event loop for the life of the instance, in a thread of its own, so that what it starts at
startup goes on between requests.
"""

import asyncio
import threading
from urllib.parse import unquote

from warmpath import _http

_VERSION = {"version": "3.0", "spec_version": "2.3"}
_SHUTDOWN_SECONDS = 1


def is_asgi(application):
    """Whether it is called as ASGI has it, by the rule that OpenLambda goes by."""
    call = getattr(application, "__call__", None)  # noqa: B004
    return asyncio.iscoroutinefunction(application) or asyncio.iscoroutinefunction(call)


def adapter(application):
    """The application, started, for the runtime's loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="asgi", daemon=True).start()

    def wait(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    state = {}
    lifespan = _Lifespan(application, state)
    wait(lifespan.startup())

    def run(body, head):
        return wait(_Exchange(body).run(application, _scope(head, state)))

    run.close = lambda: wait(lifespan.shutdown())
    return run


class _Lifespan:
    """Startup and shutdown, for applications that care."""

    def __init__(self, application, state):
        self._scope = {"type": "lifespan", "asgi": _VERSION, "state": state}
        self._application = application
        self._task = None
        self._events = None
        self._started = None
        self._stopped = None

    async def startup(self):
        self._events = asyncio.Queue()
        self._started = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": "lifespan.startup"})
        call = self._application(self._scope, self._events.get, self._send)
        self._task = asyncio.ensure_future(call)
        await asyncio.wait([self._task, self._started], return_when=asyncio.FIRST_COMPLETED)
        if self._started.done():
            self._started.result()
        else:
            # It ended, or raised, and has not said that its startup failed: it knows nothing of lifespans.
            self._task.exception()
            self._task = None

    async def shutdown(self):
        if self._task is not None and not self._task.done():
            self._events.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait([self._task, self._stopped], timeout=_SHUTDOWN_SECONDS)

    async def _send(self, message):
        kind = message["type"]
        future = self._started if kind.startswith("lifespan.startup") else self._stopped
        if future.done():
            return
        if kind.endswith(".failed"):
            future.set_exception(RuntimeError(message.get("message") or "the application failed to start"))
        else:
            future.set_result(None)


class _Exchange:
    """One request."""

    def __init__(self, body):
        self._request = body
        self._is_taken = False
        self._head = None
        self._body = _http.Body()
        self._done = asyncio.Event()

    async def run(self, application, scope):
        try:
            await application(scope, self._receive, self._send)
        finally:
            self._done.set()
        if self._head is None:
            raise RuntimeError("the application has sent no http.response.start")
        return self._body.bytes(), self._head

    async def _receive(self):
        if not self._is_taken:
            self._is_taken = True
            return {"type": "http.request", "body": self._request, "more_body": False}
        # Whoever asks again waits for the client to go; here it goes when it has its answer.
        await self._done.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            headers = [
                [bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")]
                for name, value in message.get("headers", ())
            ]
            self._head = {"status": int(message["status"]), "headers": headers}
        elif kind == "http.response.body" and self._head is not None and not self._done.is_set():
            self._body.add(message.get("body", b""))
            if not message.get("more_body", False):
                self._done.set()
        else:
            raise RuntimeError(f"the application sent {kind} out of turn")


def _scope(head, state):
    host = next((value for name, value in head["headers"] if name == "host"), "localhost")
    name, _, port = host.rpartition(":")
    server = (name, int(port)) if name and port.isdigit() else (host, 80)
    path = head["base"] + head["path"]
    return {
        "type": "http",
        "asgi": _VERSION,
        "http_version": "1.1",
        "method": head["method"],
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": head["query"].encode("ascii"),
        "root_path": unquote(head["base"]),
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]
        ],
        "server": server,
        "client": None,
        "state": dict(state),
    }
