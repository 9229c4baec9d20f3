"""How a prepared instance becomes another program: one for a runtime that is no Python.

The process is locked in already, and what it becomes inherits every lock: namespaces, user, cgroup, limits and
system call filter outlive execve(2).
"""

import json
import os

_INSTANCE_FD = 3
# What a program finds in its environment, whatever its runtime adds.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}


def become(meta):
    """Never returns, unless the program cannot be executed. Without a function it will be told that by a frame."""
    program = meta.pop("exec")
    environment = {**_ENVIRONMENT, **dict(program["env"]), **meta.pop("env", {})}
    if meta:
        environment["WARMPATH_LOAD"] = json.dumps(meta)
    os.chdir("/handler")
    os.set_inheritable(_INSTANCE_FD, True)
    argv = program["argv"]
    try:
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.set_inheritable(_INSTANCE_FD, False)
        raise OSError(f"cannot execute {argv[0]}: {error.strerror}") from None
