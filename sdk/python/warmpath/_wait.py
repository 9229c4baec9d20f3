"""Waiting for something without being there: what a handler returns instead of a reply."""

import json
import math

from warmpath import _db


class Wait:
    """Returned by a handler: run me again when a feed moves, or at a time. Made by `wait`."""

    __slots__ = ("meta",)

    def __init__(self, meta):
        self.meta = meta


class Wake:
    """Why a handler runs again: `context.wake`.

    reason  "feed" or "time"
    cursor  where the feed is; to wait behind the next time
    state   what the handler gave to `wait`, or None
    """

    __slots__ = ("reason", "cursor", "state")

    def __init__(self, meta):
        self.reason = meta["reason"]
        self.cursor = meta["cursor"]
        state = meta.get("state")
        self.state = None if state is None else json.loads(state)


def wait(key=None, *, slot=None, cursor=None, until=None, state=None):
    """What to return to be run again, with the same event, when a feed moves or time is up.

    key, slot  whose feed: that of the slot of `key`, or of `slot`. Neither: only time wakes
    cursor     the feed must get beyond this one; by default it is the newest one now. A handler that reads before it
               waits takes `db.cursor(key)` first, reads, and gives that cursor here: it misses nothing then
    until      seconds, as a number; by default as long as the caller waits
    state      anything that JSON can say: `context.wake.state` when the handler runs again

    No instance is held meanwhile, so nothing else of this run is there then.
    """
    if key is not None:
        if slot is not None:
            raise ValueError("give a key or a slot, not both")
        slot = _db.slot_of(key)
    meta = {}
    if slot is not None:
        meta["slot"] = slot
        meta["cursor"] = _db.cursor(slot=slot) if cursor is None else cursor
    elif cursor is not None:
        raise ValueError("a cursor says nothing without a key or a slot")
    if until is not None:
        if not math.isfinite(until) or until < 0:
            raise ValueError("until is a number of seconds, from 0")
        meta["until_ms"] = math.ceil(until * 1000)
    elif slot is None:
        raise ValueError("nothing would end this wait: give a key, a slot or until")
    if state is not None:
        meta["state"] = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    return Wait(meta)
