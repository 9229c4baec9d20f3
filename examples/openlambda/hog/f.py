# Takes memory until there is none.

_taken = []


def f(event):
    for _ in range(event.get("megabytes", 1 << 20)):
        _taken.append(bytearray(b"x" * (1 << 20)))
    return len(_taken)
