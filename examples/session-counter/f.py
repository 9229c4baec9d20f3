"""Counts the requests of a session in its own memory.

That only works because all requests of a session meet the same instance: the reply names it, so that
the caller can see for itself.
"""

import warmpath

requests = {}


def f(event):
    session = warmpath.context.session
    requests[session] = requests.get(session, 0) + 1
    return {
        "count": requests[session],
        "instance": warmpath.context.instance,
        "worker": warmpath.context.worker,
    }
