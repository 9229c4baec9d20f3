"""What a handler raised: the traceback goes to the log, a bounded account of it to the worker."""

import os
import sys
import traceback

from warmpath._stream import Gone

_KIND_LENGTH_MAX = 128
_MESSAGE_LENGTH_MAX = 4096


def describe(error):
    """The meta of the error frame."""
    if isinstance(error, Gone):
        # Nobody is left to read of it, and it is nothing that went wrong here.
        flush()
        return {"kind": "Gone", "message": str(error)}
    try:
        # Frames of the runtime are not the handler's business.
        own = os.path.dirname(describe.__code__.co_filename)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if os.path.dirname(f.filename) != own]
        lines = traceback.format_list(frames) + traceback.format_exception_only(error)
        sys.stderr.write("Traceback (most recent call last):\n" + "".join(lines))
        message = str(error)
    except Exception:  # a broken __str__, a closed stderr
        message = "(no message)"
    flush()
    return {"kind": type(error).__name__[:_KIND_LENGTH_MAX], "message": message[:_MESSAGE_LENGTH_MAX]}


def flush():
    """Has what was printed leave this process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the handler may have closed or replaced it
            pass
