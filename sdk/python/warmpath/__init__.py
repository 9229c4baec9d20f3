"""Warmpath's library for Python handlers.

A handler is a file with a function `f(event)` or `f(event, context)`. What it returns is the reply.

    import warmpath

    def f(event):
        visits = int(warmpath.db.get("visits") or 0) + 1
        warmpath.db.put("visits", str(visits))
        return {"visits": visits, "session": warmpath.context.session}

A handler that waits for something returns `warmpath.wait(…)`, and holds no instance until it runs again. With
`interface = "http"` it is `f(request)`, with a `Request`, and may return a `Response`.

Only what `__all__` names is for handlers; the modules with an underscore are how an instance runs.
"""

from warmpath import _db as db
from warmpath._context import Context, context
from warmpath._http import Request, Response
from warmpath._wait import wait

__all__ = ["Context", "Request", "Response", "context", "db", "wait"]
