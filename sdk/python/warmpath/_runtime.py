"""The loop of an instance: load the function once, then serve requests, one after the other as a rule."""

import functools
import os
import threading

from warmpath import _calls, _context, _exec, _failure, _handler, _profile, _stream, _wire
from warmpath._wait import Wait


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
            handler = _exec.become(meta) if "exec" in meta else _handler.load(meta)
        except BaseException as error:  # the module's top level may raise anything
            connection.send(_wire.ERROR, _failure.describe(error))
            return
        concurrency = meta.get("concurrency", 1)
        if concurrency > 1:
            _calls.serve(connection, handler, concurrency)
        else:
            _serve_alone(connection, handler)
    except _wire.Closed:
        pass


def _serve_alone(connection, handler):
    run = _on_a_loop(handler) if handler.run_async else _at_once(handler)
    profiler = _profile.Profiler(connection.send)
    os.register_at_fork(after_in_child=profiler.forget)
    flow = _Flow(connection)
    connection.send(_wire.READY, {"imports": handler.imports, "streams": True})
    while True:
        _, meta, event = flow.invoked()
        profile_hz = meta.get("profile")
        if profile_hz:
            profiler.begin(profile_hz, None, threading.get_ident())
        answer = _invoke(flow, run, meta, event)
        if profile_hz:
            profiler.end(None)
        connection.send(*answer)


def _at_once(handler):
    return functools.partial(_stream.run, handler)


def _on_a_loop(handler):
    import asyncio

    loop = asyncio.new_event_loop()
    return lambda *call: loop.run_until_complete(_stream.run_async(handler, *call))


def _invoke(flow, run, meta, event):
    """The frame that answers the request."""
    request = _context.alone
    request.begin(meta)
    request.exchange = flow.exchange
    request.flow = flow
    body = _stream.Input(flow) if meta.get("body_follows") else event
    try:
        reply, said = run(body, meta.get("http"), flow)
    except BaseException as error:  # sys.exit() in a handler is an error of that request
        request.exchange = None
        return _wire.ERROR, _failure.describe(error)
    finally:
        request.exchange = None
        flow.end()
        _failure.flush()
    if isinstance(reply, Wait):
        return _wire.WAIT, reply.meta
    return _wire.RESULT, said, reply


class _Flow:
    """The way to the worker of the one request that is served (`_stream`).

    Any thread of the handler may wait for a frame: one of those that wait reads, for all of them. A thread that a
    request left behind may still be the one that reads when the next request comes.
    """

    def __init__(self, connection):
        self._connection = connection
        # Held itself where nobody is waited for: a lock of C, at a tenth of the time of a condition.
        self._state = threading.Lock()
        self._moved = threading.Condition(self._state)
        self._waiting = 0
        self._pulling = threading.Lock()
        self._is_reading = False
        self._invoked = None
        self._reply = None
        self._piece = None
        self._serial = 0
        self._room = 0
        self._is_gone = False
        self.window = 0

    def invoked(self):
        """The next request."""
        with self._state:
            while not self._invoked:
                self._hear()
            invoked, self._invoked = self._invoked, None
        meta = invoked[1]
        self.window = self._room = meta.get("stream", 0)
        self._reply = self._piece = None
        self._is_gone = False
        return invoked

    def end(self):
        """The request is over: whoever still waits for something of it waits in vain."""
        with self._state:
            self._serial += 1
            self._wake()

    def exchange(self, op):
        """Does a database operation: the frame that answers it."""
        self._connection.send(_wire.DB_REQUEST, data=op)
        with self._state:
            self._wait_in_call(lambda: self._reply)
            reply, self._reply = self._reply, None
        return reply

    def chunk(self, data, said=None):
        with self._state:
            self._look()
            self._wait_in_call(lambda: self._room or self._is_gone)
            self._check()
            self._room -= 1
        self._connection.send(_wire.CHUNK, said, data)

    async def chunk_async(self, data, said=None):
        # Nobody else is on the loop whom it could keep waiting.
        self.chunk(data, said)

    def pull(self):
        with self._pulling:
            with self._state:
                self._check()
            self._connection.send(_wire.PULL)
            with self._state:
                self._wait_in_call(lambda: self._piece or self._is_gone)
                self._check()
                (_, meta, data), self._piece = self._piece, None
        return None if meta.get("end") else data

    def look(self):
        """Raises if the caller has gone."""
        with self._state:
            self._look()
            self._check()

    def _look(self):
        while not self._is_reading and self._connection.has_more():
            self._take(self._connection.receive())

    def _check(self):
        if self._is_gone:
            raise _stream.Gone("the caller has gone")

    def _wait_in_call(self, is_there):
        serial = self._serial
        self._wait(lambda: is_there() or self._serial != serial)
        if self._serial != serial:
            raise RuntimeError("the request is over: nothing more of it can be read or sent")

    def _wait(self, is_there):
        while not is_there():
            self._hear()

    def _hear(self):
        """Takes in the next frame, or waits until whoever reads has taken in one."""
        if self._is_reading:
            self._waiting += 1
            try:
                self._moved.wait()
            finally:
                self._waiting -= 1
            return
        self._is_reading = True
        self._state.release()
        try:
            frame = self._connection.receive()
        finally:
            self._state.acquire()
            self._is_reading = False
            self._wake()
        self._take(frame)

    def _wake(self):
        if self._waiting:
            self._moved.notify_all()

    def _take(self, frame):
        kind = frame[0]
        if kind == _wire.INVOKE:
            self._invoked = frame
        elif kind == _wire.DB_REPLY:
            self._reply = frame
        elif kind == _wire.BODY:
            self._piece = frame
        elif kind == _wire.GO_ON:
            self._room += 1
        elif kind == _wire.GONE:
            self._is_gone = True


def _disown(connection):
    _context.current().exchange = None
    _context.alone.exchange = None
    connection.close()
