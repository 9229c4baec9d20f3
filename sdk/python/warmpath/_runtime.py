"""The loop of an instance: load the function once, then serve requests, one after the other as a rule."""

import os

from warmpath import _calls, _context, _exec, _failure, _handler, _wire
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

    def exchange(op):
        connection.send(_wire.DB_REQUEST, data=op)
        return connection.receive()

    connection.send(_wire.READY, {"imports": handler.imports})
    while True:
        kind, meta, event = connection.receive()
        if kind == _wire.INVOKE:
            _invoke(connection, exchange, run, meta, event)


def _on_a_loop(run_async):
    import asyncio

    loop = asyncio.new_event_loop()
    return lambda event, head: loop.run_until_complete(run_async(event, head))


def _invoke(connection, exchange, run, meta, event):
    request = _context.alone
    request.begin(meta)
    request.exchange = exchange
    try:
        reply, said = run(event, meta.get("http"))
    except BaseException as error:  # sys.exit() in a handler is an error of that request
        request.exchange = None
        connection.send(_wire.ERROR, _failure.describe(error))
        return
    finally:
        request.exchange = None
        _failure.flush()
    if isinstance(reply, Wait):
        connection.send(_wire.WAIT, reply.meta)
    else:
        connection.send(_wire.RESULT, said, reply)


def _disown(connection):
    _context.current().exchange = None
    _context.alone.exchange = None
    connection.close()
