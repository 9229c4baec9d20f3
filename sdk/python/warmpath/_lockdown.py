"""How a process forked from the zygote locks itself into a prepared sandbox, for good.

Runs trusted code only, and before any of the handler's. Order matters: each step takes away something that
the steps before it needed.
"""

import ctypes
import os
import resource
import struct

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
# Being uid 0 shall never give capabilities again, and none of this can be undone (capabilities(7)).
_SECUREBITS_ALL_LOCKED = 0x2F
_CAPABILITY_VERSION_3 = 0x20080522

_INSTANCE_FD = 3
_OPEN_FILES_MAX = 512


def setns(fd, flags):
    """setns(2); Python has it from 3.12 on only."""
    _check(_libc.setns(fd, flags), "setns")


def enter(init, user, doors, connection, log, handler_id, seccomp):
    """Locks this process in. Returns the number that the instance's socket has from now on.

    init        pidfd of the sandbox's init
    user        the handler's user namespace
    doors       the cgroup.procs files to join
    connection  the instance's socket
    log         where what the handler prints goes
    handler_id  user and group in the user namespace
    seccomp     filter programs, in the order of their installation
    """
    for door in doors:
        os.write(door, b"0")
    setns(
        init,
        CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP,
    )
    setns(user, CLONE_NEWUSER)
    os.setsid()
    os.umask(0o077)
    _files(connection, log)
    _limits()
    _privileges(handler_id)
    os.chdir("/tmp")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for program in seccomp:
        _install(program)
    return _INSTANCE_FD


def _files(connection, log):
    """Leaves four descriptors: an empty stdin, the log twice, the instance's socket."""
    # First above all numbers that are to be overwritten.
    connection = os.dup2(connection, 100)
    log = os.dup2(log, 101)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(connection, _INSTANCE_FD, inheritable=False)
    os.closerange(_INSTANCE_FD + 1, 2**31 - 1)


def _limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES_MAX, _OPEN_FILES_MAX))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))


def _privileges(handler_id):
    for capability in range(64):
        if _raw_prctl(_PR_CAPBSET_DROP, capability) != 0:
            break  # the kernel knows no more of them
    else:
        raise OSError("the bounding set has no end")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_SECUREBITS, _SECUREBITS_ALL_LOCKED)
    os.setgroups([])
    os.setresgid(handler_id, handler_id, handler_id)
    os.setresuid(handler_id, handler_id, handler_id)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    none = ctypes.create_string_buffer(24)
    _check(_libc.capset(header, none), "capset")


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _install(program):
    instructions = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(instructions))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _prctl(option, first, second=0):
    _check(_raw_prctl(option, first, second), f"prctl({option})")


def _raw_prctl(option, first, second=0):
    # Variadic in C: every argument has to have the width of a register.
    return _libc.prctl(option, *[ctypes.c_ulong(number) for number in (first, second, 0, 0)])


def _check(returned, what):
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
