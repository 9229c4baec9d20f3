"""Several requests at a time: threads for plain handlers, one event loop for those that are `async def`.

The main thread reads, and gives each frame to its call. The worker sends
no more calls at a time than the manifest allows, so that the pool of threads never has a queue.
"""

import contextvars
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from warmpath import _context, _failure, _profile, _stream, _wire
from warmpath._wait import Wait


def serve(connection, handler, concurrency):
    """Serves until the worker closes the socket."""
    calls = _Calls(connection)
    if handler.run_async:
        start = _on_a_loop(calls, handler)
    else:
        threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="call")
        start = lambda *call: threads.submit(calls.run, handler, *call)  # noqa: E731
    connection.send(_wire.READY, {"imports": handler.imports, "streams": True})
    while True:
        kind, meta, data = connection.receive()
        if kind == _wire.INVOKE:
            call = calls.begin(meta)
            body = _stream.Input(call) if meta.get("body_follows") else data
            start(call, body, meta.get("http"))
        else:
            calls.hear(kind, meta, data)


class _Call:
    """One call that runs: its number, its request, and what comes for it. It is a flow (`_stream`)."""

    def __init__(self, meta, send):
        self.number = meta["call"]
        self.profile_hz = meta.get("profile")
        self.request = _context.Request()
        self.request.begin(meta)
        self.request.exchange = self._exchange
        self.request.flow = self
        self.window = meta.get("stream", 0)
        self._send = send
        self._answers = queue.SimpleQueue()
        self._pieces = queue.SimpleQueue()
        self._pulling = threading.Lock()
        self._room = self.window
        self._state = "runs"
        self._moved = threading.Condition()

    def hear(self, kind, meta, data):
        """Takes in a frame; on the thread that reads."""
        if kind == _wire.DB_REPLY:
            self._answers.put((kind, meta, data))
        elif kind == _wire.BODY:
            self._pieces.put(None if meta.get("end") else data)
        elif kind == _wire.GO_ON:
            with self._moved:
                self._room += 1
                self._moved.notify()
        elif kind == _wire.GONE:
            self._become("gone")

    def end(self):
        self.request.exchange = None
        self._become("over")
        # Whoever still waits for an answer waits in vain.
        self._answers.put((None, {}, b""))

    def chunk(self, data, said=None):
        with self._moved:
            self._moved.wait_for(lambda: self._room or self._state != "runs")
            self._check()
            self._room -= 1
        self._tell(_wire.CHUNK, said, data)

    async def chunk_async(self, data, said=None):
        # Without room it would keep the others on the loop waiting.
        if self._room or self._state != "runs":
            self.chunk(data, said)
        else:
            import asyncio

            await asyncio.to_thread(self.chunk, data, said)

    def pull(self):
        with self._pulling:
            self._check()
            self._tell(_wire.PULL)
            piece = self._pieces.get()
            self._check()
            return piece

    def look(self):
        """Raises if the caller has gone."""
        self._check()

    def _exchange(self, op):
        self._tell(_wire.DB_REQUEST, None, op)
        return self._answers.get()

    def _become(self, state):
        with self._moved:
            self._state = state
            self._moved.notify_all()
        self._pieces.put(None)

    def _check(self):
        if self._state == "over":
            raise RuntimeError("the request is over: nothing more of it can be read or sent")
        if self._state == "gone":
            raise _stream.Gone("the caller has gone")

    def _tell(self, kind, meta=None, data=b""):
        self._send(kind, (meta or {}) | {"call": self.number}, data)


class _Calls:
    """The calls that run, and the socket they share."""

    def __init__(self, connection):
        self._connection = connection
        self._running = {}
        self._profiler = _profile.Profiler(self._send)
        os.register_at_fork(after_in_child=self._profiler.forget)

    def begin(self, meta):
        call = _Call(meta, self._send)
        self._running[call.number] = call
        return call

    def hear(self, kind, meta, data):
        call = self._running.get(meta.get("call"))
        # A thread that a handler left behind may have asked: its request is over.
        if call is not None:
            call.hear(kind, meta, data)

    def run(self, handler, call, event, head):
        """Serves a call on this thread."""
        contextvars.copy_context().run(self._run, handler, call, event, head)

    def _run(self, handler, call, event, head):
        self._enter(call)
        try:
            reply, said = _stream.run(handler, event, head, call)
        except BaseException as error:  # sys.exit() in a handler is an error of that request
            self._fail(call, error)
        else:
            self._finish(call, reply, said)

    async def run_async(self, handler, call, event, head):
        """Serves a call as a task of its own."""
        self._enter(call)
        try:
            reply, said = await _stream.run_async(handler, event, head, call)
        except BaseException as error:
            self._fail(call, error)
        else:
            self._finish(call, reply, said)

    def _enter(self, call):
        _context.serve(call.request)
        if call.profile_hz:
            self._profiler.begin(call.profile_hz, call.number, threading.get_ident())

    def _finish(self, call, reply, said):
        self._end(call)
        _failure.flush()
        if isinstance(reply, Wait):
            self._send(_wire.WAIT, reply.meta | {"call": call.number})
        else:
            self._send(_wire.RESULT, (said or {}) | {"call": call.number}, reply)

    def _fail(self, call, error):
        self._end(call)
        self._send(_wire.ERROR, _failure.describe(error) | {"call": call.number})

    def _end(self, call):
        if call.profile_hz:
            self._profiler.end(call.number)
        self._running.pop(call.number, None)
        call.end()

    def _send(self, kind, meta, data=b""):
        try:
            self._connection.send(kind, meta, data)
        except OSError:  # the worker is gone, or this is a process that the handler forked
            os._exit(1)


def _on_a_loop(calls, handler):
    """How to start a call on an event loop that runs on a thread of its own."""
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="calls", daemon=True).start()
    tasks = set()  # a loop holds its tasks weakly

    def start(*call):
        task = loop.create_task(calls.run_async(handler, *call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return lambda *call: loop.call_soon_threadsafe(start, *call)
