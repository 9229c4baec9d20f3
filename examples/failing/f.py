"""Fails when asked to, to show what a caller sees of it."""


def f(event):
    if (event or {}).get("fail", True):
        raise ValueError("this function always fails, on purpose")
    return "fine"
