"""Called by the time and by writes to the database, and keeps what it was called with; who calls it himself can have orders
written, or is told what was kept."""

import json

import warmpath


def f(event):
    trigger = (event or {}).get("trigger")
    if trigger is None:
        return ask(event or {})
    if trigger["kind"] == "schedule":
        # A call may come twice: its id tells.
        warmpath.db.put("{ticks}:" + event["id"], json.dumps(event))
        return event["time"]
    for record in event["records"]:
        keep(record)
    return len(event["records"])


def keep(record):
    """Behind all that is kept: calls of a feed's trigger come one after the other."""
    known = warmpath.db.get("{kept}:orders")
    orders = json.loads(known) if known else []
    # Where in the feed the write is tells a call that was made again from a second write of the same.
    orders.append([record["cursor"], record["value"]])
    warmpath.db.put("{kept}:orders", json.dumps(orders))


def ask(event):
    if "order" in event:
        warmpath.db.put("{orders}:" + event["order"], event["order"])
        return event["order"]
    known = warmpath.db.get("{kept}:orders")
    ticks = [json.loads(value) for _, value in warmpath.db.scan("{ticks}:")]
    return {"orders": json.loads(known) if known else [], "ticks": ticks}
