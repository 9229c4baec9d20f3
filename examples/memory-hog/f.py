"""Takes as much memory as it is asked for; without a number, more than it is allowed."""


def f(event):
    megabytes = (event or {}).get("megabytes")
    held = []
    while megabytes is None or len(held) < megabytes:
        held.append(bytearray(1024 * 1024))
    return {"held_megabytes": len(held)}
