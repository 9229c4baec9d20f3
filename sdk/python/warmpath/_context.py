"""What a handler can know of the request it serves."""

import contextvars
import threading
import time

from warmpath._wait import Wake


class Request:
    """One request, as the runtime knows it."""

    __slots__ = (
        "request_id",
        "session",
        "deadline_ms",
        "function",
        "wake",
        "started",
        "exchange",
        "flow",
        "turn",
    )

    def __init__(self):
        self.request_id = 0
        self.session = None
        self.deadline_ms = 0
        self.function = ""
        self.wake = None
        self.started = 0.0
        # Sends a database operation and gives the frame that answers it; None unless the request is served.
        self.exchange = None
        # What of it comes and goes in pieces (`_stream`).
        self.flow = None
        # Threads of one request take turns: an operation and its answer belong together.
        self.turn = threading.Lock()

    def begin(self, meta):
        self.request_id = meta["request_id"]
        self.session = meta.get("session")
        self.deadline_ms = meta["deadline_ms"]
        self.function = meta["function"]
        wake = meta.get("wake")
        self.wake = Wake(wake) if wake else None
        self.started = time.monotonic()


# The request of an instance that serves one at a time: every thread of the handler sees it.
alone = Request()

_now = contextvars.ContextVar("warmpath.request", default=alone)

# The request that the code that asks serves, and how the runtime says which that is.
current = _now.get
serve = _now.set


class Context:
    """The request being served. There is one object of this class: it shows the request that the code that asks serves.

    With `concurrency` above 1 in the manifest, a thread that the handler starts itself has to be given the
    request with `contextvars.copy_context().run`; `asyncio.to_thread` and tasks do so by themselves.

    request_id   number of the request, unique among its caller's
    session      number of the session, or None
    deadline_ms  time that the handler had, in milliseconds, when the request reached it
    function     qualified name, such as "hello@latest"
    worker       name of the worker
    instance     number of this instance on its worker
    wake         what woke the request, with `reason`, `cursor` and `state`, if the handler had it wait; or None
    """

    __slots__ = ("worker", "instance")

    def __init__(self):
        self.worker = ""
        self.instance = 0

    @property
    def request_id(self):
        return _now.get().request_id

    @property
    def session(self):
        return _now.get().session

    @property
    def deadline_ms(self):
        return _now.get().deadline_ms

    @property
    def function(self):
        return _now.get().function

    @property
    def wake(self):
        return _now.get().wake

    def remaining_ms(self):
        """Milliseconds left until the instance is killed for taking too long."""
        request = _now.get()
        spent_ms = (time.monotonic() - request.started) * 1000
        return max(0, int(request.deadline_ms - spent_ms))


context = Context()
