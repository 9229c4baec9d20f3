"""Streams both ways: server-sent events, and a body that is answered as it comes.

    curl -N  http://GATEWAY/run/streams/clock
    curl -NT FILE -X POST http://GATEWAY/run/streams/upper
    curl -T FILE -X POST http://GATEWAY/run/streams/digest
"""

import hashlib
import time

from warmpath import Response


def f(request):
    if request.path == "/clock":
        return Response(clock(), headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    if request.path == "/upper":
        return (piece.upper() for piece in request.stream.pieces())
    if request.path == "/digest":
        return digest(request.stream)
    return Response({"there is": ["/clock", "/upper", "/digest"]}, status=404)


def clock():
    """Ten events, a second apart. Whoever hangs up ends it at the next one."""
    for number in range(10):
        yield f"id: {number}\ndata: {time.strftime('%H:%M:%S')}\n\n"
        time.sleep(1)


def digest(stream):
    """However long it is, a piece at a time is held."""
    sha, length = hashlib.sha256(), 0
    for piece in stream.pieces():
        sha.update(piece)
        length += len(piece)
    return {"sha256": sha.hexdigest(), "bytes": length}
