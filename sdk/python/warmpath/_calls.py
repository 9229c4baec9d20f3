"""Several requests at a time: threads for plain handlers, one event loop for those that are `async def`.

The main thread reads, and gives each frame to its call. The worker sends
no more calls at a time than the manifest allows, so that the pool of threads never has a queue.
"""

import contextvars
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from warmpath import _context, _failure, _profile, _wire
from warmpath._wait import Wait


def serve(connection, handler, concurrency):
    """Serves until the worker closes the socket."""
    calls = _Calls(connection)
    if handler.run_async:
        start = _on_a_loop(calls, handler)
    else:
        threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="call")
        start = lambda *call: threads.submit(calls.run, handler, *call)  # noqa: E731
    connection.send(_wire.READY, {"imports": handler.imports})
    while True:
        kind, meta, data = connection.receive()
        if kind == _wire.INVOKE:
            start(calls.begin(meta), data, meta.get("http"))
        elif kind == _wire.DB_REPLY:
            calls.answer(meta, data)


class _Call:
    """One call that runs: its number, its request, and the answers that come for it."""

    def __init__(self, number, profile_hz):
        self.number = number
        self.profile_hz = profile_hz
        self.request = _context.Request()
        self.answers = queue.SimpleQueue()


class _Calls:
    """The calls that run, and the socket they share."""

    def __init__(self, connection):
        self._connection = connection
        self._running = {}
        self._profiler = _profile.Profiler(self._send)
        os.register_at_fork(after_in_child=self._profiler.forget)

    def begin(self, meta):
        call = _Call(meta["call"], meta.get("profile"))
        call.request.begin(meta)
        call.request.exchange = lambda op: self._exchange(call, op)
        self._running[call.number] = call
        return call

    def answer(self, meta, data):
        call = self._running.get(meta["call"])
        # A thread that a handler left behind may have asked: its request is over.
        if call is not None:
            call.answers.put((_wire.DB_REPLY, meta, data))

    def run(self, handler, call, event, head):
        """Serves a call on this thread."""
        contextvars.copy_context().run(self._run, handler, call, event, head)

    def _run(self, handler, call, event, head):
        self._enter(call)
        try:
            reply, said = handler.run(event, head)
        except BaseException as error:  # sys.exit() in a handler is an error of that request
            self._fail(call, error)
        else:
            self._finish(call, reply, said)

    async def run_async(self, handler, call, event, head):
        """Serves a call as a task of its own."""
        self._enter(call)
        try:
            reply, said = await handler.run_async(event, head)
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
        call.request.exchange = None
        self._running.pop(call.number, None)
        # Whoever still waits for an answer waits in vain.
        call.answers.put((None, {}, b""))

    def _exchange(self, call, op):
        self._send(_wire.DB_REQUEST, {"call": call.number}, op)
        return call.answers.get()

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
