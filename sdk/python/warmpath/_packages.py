"""Package zygotes: zygotes that have packages imported, and what a function imported while it was loaded.

Importing a package runs its code, so a package zygote is locked in before it imports anything: a sandbox of its own
(`_lockdown.cage`). It forks instances as the first zygote does, and other package zygotes with more imported.
"""

import gc
import importlib
import json
import os
import sys
import time

HANDLER_DIR = "/handler"
LAYERS_DIR = "/layers"
# The worker reads no more of it.
_NAMES_MAX = 64
_NAME_LEN_MAX = 100


def warm(command):
    """Imports what the worker asks for. What cannot be imported is left out: it costs time, no function."""
    search(command["layers"])
    done = []
    for name in command["imports"]:
        try:
            importlib.import_module(name)
            done.append(name)
        except BaseException:  # the package's own code may raise anything
            continue
    # What exists now will not be looked at by any collection, so that its pages stay shared.
    gc.collect()
    gc.freeze()
    return {"ready": os.getpid(), "imported": done}


def search(layers):
    """Has packages looked for in `layers`, in this order, after the standard library."""
    others = [place for place in sys.path if not place.startswith(LAYERS_DIR + "/")]
    places = [f"{LAYERS_DIR}/{name}" for name in layers]
    sys.path[:] = others + places
    for place in places:
        # What was not found there before may be there now.
        sys.path_importer_cache.pop(place, None)


def reseed():
    """After a fork: generators that are not seeded anew by themselves would give all instances one sequence."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


class Recorder:
    """Notes what the function's own modules import while it is loaded, and how long each took."""

    def __init__(self):
        self._took = {}

    def __enter__(self):
        import builtins

        self._builtins, self._import = builtins, builtins.__import__
        builtins.__import__ = self._record
        return self

    def __exit__(self, *_):
        self._builtins.__import__ = self._import

    def _record(self, name, globals=None, locals=None, fromlist=(), level=0):
        own = level == 0 and _is_handlers((globals or {}).get("__file__"))
        if not own:
            return self._import(name, globals, locals, fromlist, level)
        start = time.perf_counter_ns()
        module = self._import(name, globals, locals, fromlist, level)
        took = (time.perf_counter_ns() - start) // 1000
        # `from a import b` may import `a.b`, and that brings `a`.
        parts = [f"{name}.{part}" for part in fromlist or ()]
        names = [part for part in parts if part in sys.modules] or [name]
        for full in names:
            self._note(full, took // len(names))
        return module

    def _note(self, name, took):
        module = sys.modules.get(name)
        fits = len(name) <= _NAME_LEN_MAX and len(self._took) < _NAMES_MAX
        if module is not None and fits and not _is_handlers(getattr(module, "__file__", None)):
            self._took.setdefault(name, {"module": name, "us": took, "layer": _layer(module)})

    def report(self):
        """Each import, its microseconds, and the layer that it came from."""
        return list(self._took.values())


def _layer(module):
    path = getattr(module, "__file__", None)
    if isinstance(path, str) and path.startswith(LAYERS_DIR + "/"):
        return path[len(LAYERS_DIR) + 1 :].split("/", 1)[0]
    return None


def _is_handlers(path):
    return isinstance(path, str) and path.startswith(HANDLER_DIR + "/")
