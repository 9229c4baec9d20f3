# Forks until it cannot.

import os
import time


def f(event):
    children = 0
    try:
        while children < 10_000:
            if os.fork() == 0:
                time.sleep(3600)
                os._exit(0)
            children += 1
    except OSError as error:
        return {"children": children, "stopped_by": type(error).__name__}
    return {"children": children, "stopped_by": None}
