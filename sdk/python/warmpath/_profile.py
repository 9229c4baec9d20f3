"""Sampled stacks of the handler, for `warmpath fn profile`.

While the worker asks for a profile, a thread of its own looks, so many times a second, at the threads that run calls,
and counts the stacks it finds. What it counted goes to the worker now and then, while a call runs or right before its
reply. Without a profile there is no such thread, and a call pays for one comparison.

It sees what a clock on the wall would: a handler that waits is seen waiting.
"""

import json
import os
import sys
import threading
import time

from warmpath import _wire

# Stacks counted between two frames to the worker; what comes beyond is counted as one.
_STACKS_MAX = 256
# Innermost frames of a stack that are looked at.
_DEPTH_MAX = 48
_LABEL_LEN_MAX = 120
# Bytes of one frame to the worker, which takes no longer one.
_FRAME_BYTES_MAX = 60_000
# A long call does not keep to itself what is known, and short ones do not pay for a frame each.
_SEND_EVERY_S = 0.25
# Without a call for so long, the thread ends; the next call starts another.
_IDLE_S = 1.0
# Python code holds the interpreter for 5 ms as a rule before another thread may look: most handlers answer before that,
# or wait for something, where they would be seen too often. A look takes 0.12 ms of CPU time with this; with
# 0.1 ms 0.54 ms, because the threads interrupt each other.
_SWITCH_S = 0.0003

# Where this library is.
_RUNTIME_DIR = os.path.dirname(__file__)
# Waiting for the database is the handler's own business.
_SHOWN = "_db.py"
_STANDARD_DIR = os.path.dirname(os.__file__) + "/"
# What may stand below the handler: the zygote's first line, event loops, pools of threads.
_LOOPS = (
    "<string>",
    *(_STANDARD_DIR + name for name in ("asyncio/", "concurrent/futures/thread.py", "selectors.py", "threading.py")),
)
_LAYERS_DIR = "/layers/"
_HANDLER_DIR = "/handler/"
_OTHER = "(other)"
_RUNTIME = "(runtime)"


class Profiler:
    """The calls that run, and the samples not sent yet.

    send  writes a frame; never called twice at a time, nor after `end` for the call it is about
    """

    def __init__(self, send):
        self._send = send
        self._hz = 0
        self.forget()

    def forget(self):
        """Has a process that the handler forked begin anew: it has none of the threads."""
        self._lock = threading.Lock()
        self._running = {}
        self._counts = {}
        self._sampler = None
        self._send_at = 0.0

    def begin(self, hz, call, thread):
        """The call is run by the thread, if the worker wants a profile of it."""
        with self._lock:
            self._running[call] = thread
            self._hz = hz
            if self._sampler is None:
                self._start()

    def end(self, call):
        """The call is over: its reply is what the worker hears next."""
        with self._lock:
            self._running.pop(call, None)
            if self._counts and time.monotonic() >= self._send_at:
                self._report(call)

    def _start(self):
        sampler = threading.Thread(target=self._sample, name="profile", daemon=True)
        try:
            sampler.start()
        except RuntimeError:  # the handler has as many threads as it may: nothing is known of it then
            return
        self._sampler = sampler

    def _sample(self):
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, _SWITCH_S))
        due = last_call = now = time.monotonic()
        while True:
            due = max(due + 1 / self._hz, now)
            time.sleep(due - now)
            now = time.monotonic()
            with self._lock:
                if self._running:
                    last_call = now
                    self._look()
                    if now >= self._send_at and self._counts:
                        self._report(next(iter(self._running)))
                elif now - last_call >= _IDLE_S:
                    sys.setswitchinterval(before)
                    self._sampler, self._counts = None, {}
                    return

    def _look(self):
        frames = sys._current_frames()
        counts = self._counts
        for thread in set(self._running.values()):
            frame = frames.get(thread)
            if frame is None:
                continue
            stack = []
            while frame is not None and len(stack) < _DEPTH_MAX:
                stack.append(frame.f_code)
                frame = frame.f_back
            stack = tuple(stack)
            if stack not in counts and len(counts) >= _STACKS_MAX:
                stack = ()
            counts[stack] = counts.get(stack, 0) + 1

    def _report(self, call):
        counts, self._counts = self._counts, {}
        self._send_at = time.monotonic() + _SEND_EVERY_S
        meta = None if call is None else {"call": call}
        self._send(_wire.PROFILE, meta, _encode(counts))


def _encode(counts):
    """The stacks as JSON, the most frequent first as far as there is room."""
    folded = {}
    for stack, count in counts.items():
        name = _fold(stack)
        folded[name] = folded.get(name, 0) + count
    parts, room, rest = [], _FRAME_BYTES_MAX, 0
    for name, count in sorted(folded.items(), key=lambda item: -item[1]):
        part = json.dumps([name, count])
        if len(part) < room:
            room -= len(part) + 1
            parts.append(part)
        else:
            rest += count
    if rest:
        parts.append(json.dumps([_OTHER, rest]))
    return f"[{','.join(parts)}]".encode()


def _fold(stack):
    """Outermost first, as `name (file:line);…`."""
    if not stack:
        return _OTHER
    labels = []
    for code in reversed(stack):
        # What calls the handler is of no interest, be it ours or the standard library's; what it calls is.
        if not (_is_runtimes(code) or (not labels and _is_loop(code))):
            labels.append(_label(code))
    return ";".join(labels) or _RUNTIME


def _is_runtimes(code):
    directory, _, name = code.co_filename.rpartition("/")
    return directory == _RUNTIME_DIR and name != _SHOWN


def _is_loop(code):
    return code.co_filename.startswith(_LOOPS)


def _label(code):
    path = code.co_filename
    if path.startswith(_HANDLER_DIR):
        path = path[len(_HANDLER_DIR) :]
    elif path.startswith(_LAYERS_DIR):
        path = path[len(_LAYERS_DIR) :].partition("/")[2]
    elif path.startswith(_STANDARD_DIR):
        path = path[len(_STANDARD_DIR) :]
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({path[-_LABEL_LEN_MAX // 2 :]}:{code.co_firstlineno})".replace(";", ",")[:_LABEL_LEN_MAX]
