"""Durable counters: `{"key": "apples", "add": 3}` adds and `{"key": "apples"}` reads.

The counter lives in the database under its key. A request that carries the key as its shard key runs on
the worker that holds the key's data, so that nothing here crosses the network.
"""

import warmpath


def f(event):
    key = event["key"]
    value = add(key, event["add"]) if "add" in event else int(warmpath.db.get(key) or 0)
    return {"key": key, "value": value, "worker": warmpath.context.worker}


def add(key, amount):
    while True:
        stored = warmpath.db.get(key)
        value = int(stored or 0) + amount
        # Somebody else may have counted between the two: then begin again from what they left.
        if warmpath.db.compare_and_set(key, stored, str(value)):
            return value
