"""What every attempt to escape has at hand, inside of a sandbox and outside."""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
import time

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers on x86-64 and on ARM (64 bits); None where there is no such call.
_NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mknodat": (259, 33),
    "mlockall": (151, 230),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "sched_setscheduler": (144, 119),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setuid": (105, 146),
    "shmget": (29, 194),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}


def call(name, *arguments):
    """The system call itself. A process that it starts ends at once."""
    number = _NUMBERS[name][0 if platform.machine() == "x86_64" else 1]
    if number is None:
        raise OSError(errno.ENOSYS, "not on this processor")
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    returned = _libc.syscall(ctypes.c_long(number), *wide)
    if returned == -1:
        raise OSError(ctypes.get_errno(), name)
    if name.startswith("clone"):
        if returned == 0:
            os._exit(0)
        os.waitpid(returned, 0)
    return returned


def attempt(what, *arguments):
    """`worked`, or the name of the error."""
    try:
        what(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "worked"


def in_child(what):
    """What a child process that does `what` makes of it: `worked`, an error's name, or `signal N`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, attempt(what).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else text


def raise_wall(wall, filters, landlock):
    """Puts one wall of a sandbox, and no other, around this process (outside only)."""
    if wall == "unprivileged":
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    elif wall == "no_new_privs":
        _lockdown()._prctl(38, 1)
        raise_wall("unprivileged", filters, landlock)
    elif wall == "seccomp":
        lockdown = _lockdown()
        lockdown._prctl(38, 1)
        for program in filters:
            lockdown._install(bytes.fromhex(program))
    elif wall == "landlock":
        lockdown = _lockdown()
        lockdown._prctl(38, 1)
        lockdown._landlock(landlock)
    elif wall == "rlimits":
        _lockdown()._limits()


def _lockdown():
    from warmpath import _lockdown as lockdown

    return lockdown
