"""ASGI applications (asgi.readthedocs.io, version 3): FastAPI, Starlette, or any coroutine of three arguments.

The application has one event loop for the life of the instance, in a thread of its own, so that what it starts at
startup goes on between requests.
"""

import asyncio
import concurrent.futures
import threading
from urllib.parse import unquote

from warmpath import _context
from warmpath._stream import Gone, Pieces

_VERSION = {"version": "3.0", "spec_version": "2.3"}
_SHUTDOWN_SECONDS = 1
# How often it is looked whether the caller is still there, while the application says nothing.
_LOOK_SECONDS = 0.25


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
        exchange = _Exchange(loop, body, _context.current().flow)
        return exchange.run(application, _scope(head, state))

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
    """One request: the application runs on the loop, and what it sends is fetched by the thread of its call."""

    def __init__(self, loop, body, flow):
        self._loop = loop
        self._body = body
        self._flow = flow
        self._head = None
        self._messages = asyncio.Queue(1)
        self._done = asyncio.Event()
        self._is_dropped = False
        self._task = None
        self._running = None

    def run(self, application, scope):
        """The reply, or its pieces, and the head."""
        self._task = asyncio.run_coroutine_threadsafe(self._serve(application, scope), self._loop)
        try:
            first, has_more = self._next()
            if not has_more:
                self._wait(self._task)
                return first, self._head
        except BaseException:
            self._drop()
            raise
        lengths = [value for name, value in self._head["headers"] if name == "content-length"]
        length = int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else None
        return Pieces(self._pieces(first), length), self._head

    def _pieces(self, first):
        try:
            yield first
            has_more = True
            while has_more:
                piece, has_more = self._next()
                yield piece
            # What it does behind its last piece belongs to the request.
            self._wait(self._task)
        finally:
            self._drop()

    def _drop(self):
        """Nobody fetches anything any more: ends the application, which may still tidy up."""
        self._is_dropped = True
        if self._running is not None:
            self._loop.call_soon_threadsafe(self._running.cancel)
        concurrent.futures.wait([self._task])

    def _next(self):
        """What the application sends next, and whether more comes."""
        message = self._wait(asyncio.run_coroutine_threadsafe(self._messages.get(), self._loop))
        if message is None:
            self._wait(self._task)
            if self._head is None:
                raise RuntimeError("the application has sent no http.response.start")
            return b"", False
        return message

    def _wait(self, future):
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                self._flow.look()

    async def _serve(self, application, scope):
        self._running = asyncio.current_task()
        try:
            await application(scope, self._receive, self._send)
        finally:
            self._done.set()
            if not self._is_dropped:
                await self._messages.put(None)

    async def _receive(self):
        if self._body is not None:
            return await self._next_of_body()
        # Whoever asks again waits for the client to go; here it goes when it has its answer.
        await self._done.wait()
        return {"type": "http.disconnect"}

    async def _next_of_body(self):
        body = self._body
        if isinstance(body, bytes):
            self._body = None
            return {"type": "http.request", "body": body, "more_body": False}
        try:
            piece = await asyncio.to_thread(body.next_piece)
        except Gone:
            return {"type": "http.disconnect"}
        if not piece:
            self._body = None
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _send(self, message):
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            headers = [
                [bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")]
                for name, value in message.get("headers", ())
            ]
            self._head = {"status": int(message["status"]), "headers": headers}
        elif kind == "http.response.body" and self._head is not None and not self._done.is_set():
            piece, has_more = bytes(message.get("body", b"")), message.get("more_body", False)
            if not has_more:
                self._done.set()
            # An empty piece says nothing, unless it is the last.
            if piece or not has_more:
                await self._messages.put((piece, has_more))
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
