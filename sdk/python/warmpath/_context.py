"""What a handler can know of the request it serves."""

import time

from warmpath._wait import Wake


class Context:
    """The request being served. There is one object of this class; it changes with each request.

    request_id   number of the request, unique among its caller's
    session      number of the session, or None
    deadline_ms  time that the handler had, in milliseconds, when the request reached it
    function     qualified name, such as "hello@latest"
    worker       name of the worker
    instance     number of this instance on its worker
    wake         what woke the request, with `reason`, `cursor` and `state`, if the handler had it wait; or None
    """

    __slots__ = (
        "request_id",
        "session",
        "deadline_ms",
        "function",
        "worker",
        "instance",
        "wake",
        "_started",
    )

    def __init__(self):
        self.request_id = 0
        self.session = None
        self.deadline_ms = 0
        self.function = ""
        self.worker = ""
        self.instance = 0
        self.wake = None
        self._started = 0.0

    def remaining_ms(self):
        """Milliseconds left until the instance is killed for taking too long."""
        spent_ms = (time.monotonic() - self._started) * 1000
        return max(0, int(self.deadline_ms - spent_ms))

    def _begin(self, meta):
        self.request_id = meta["request_id"]
        self.session = meta.get("session")
        self.deadline_ms = meta["deadline_ms"]
        self.function = meta["function"]
        wake = meta.get("wake")
        self.wake = Wake(wake) if wake else None
        self._started = time.monotonic()


context = Context()
