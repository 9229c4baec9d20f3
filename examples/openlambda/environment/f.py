import os


def f(event):
    names = event.get("names", [])
    return {name: os.environ.get(name, "not set") for name in names}
