import time


def f(event):
    time.sleep(event.get("seconds", 3600))
    return "awake"
