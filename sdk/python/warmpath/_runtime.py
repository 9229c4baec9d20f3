"""The loop of an instance: load the function once, then serve requests, one after the other as a rule."""

import os
import threading

from warmpath import _calls, _context, _exec, _failure, _handler, _profile, _wire
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
    run = _on_a_loop(handler.run_async) if handler.run_async else handler.run
    profiler = _profile.Profiler(connection.send)
    os.register_at_fork(after_in_child=profiler.forget)

    def exchange(op):
        connection.send(_wire.DB_REQUEST, data=op)
        return connection.receive()

    connection.send(_wire.READY, {"imports": handler.imports})
    while True:
        kind, meta, event = connection.receive()
        if kind != _wire.INVOKE:
            continue
        profile_hz = meta.get("profile")
        if profile_hz:
            profiler.begin(profile_hz, None, threading.get_ident())
        answer = _invoke(exchange, run, meta, event)
        if profile_hz:
            profiler.end(None)
        connection.send(*answer)


def _on_a_loop(run_async):
    import asyncio

    loop = asyncio.new_event_loop()
    return lambda event, head: loop.run_until_complete(run_async(event, head))


def _invoke(exchange, run, meta, event):
    """The frame that answers the request."""
    request = _context.alone
    request.begin(meta)
    request.exchange = exchange
    try:
        reply, said = run(event, meta.get("http"))
    except BaseException as error:  # sys.exit() in a handler is an error of that request
        request.exchange = None
        return _wire.ERROR, _failure.describe(error)
    finally:
        request.exchange = None
        _failure.flush()
    if isinstance(reply, Wait):
        return _wire.WAIT, reply.meta
    return _wire.RESULT, said, reply


def _disown(connection):
    _context.current().exchange = None
    _context.alone.exchange = None
    connection.close()
