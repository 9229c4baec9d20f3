"""How a process forked from the zygote locks itself into a prepared sandbox, for good.

Runs trusted code only, and before any of the handler's. Order matters: each step takes away something that
the steps before it needed.
"""

import ctypes
import os
import resource
import struct

_libc = ctypes.CDLL(None, use_errno=True)
# Variadic in C: every argument has to have the width of a register. Said once, so that a call makes no objects for it.
_raw_prctl = _libc.prctl
_raw_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

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

# Landlock's calls have one number on every processor.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_RULE_PATH_BENEATH = 1
_O_PATH = 0o10000000
# What can be done to files (landlock(7)): read and run; write; ask devices; and with names in directories all but
# making device files.
_RUN_AND_READ = 0b1101
_WRITE = 1 << 1 | 1 << 14
_ASK_DEVICES = 1 << 15
_CHANGE_NAMES = 0b11_0111_1011_0000
# How many of these rights each version knows; TCP came with the fourth, the scopes with the sixth.
_FILE_RIGHTS = (0, 13, 14, 15, 15, 16)
_TCP_SINCE, _TCP_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11

_INSTANCE_FD = 3
_OPEN_FILES_MAX = 512

# The kinds of the namespaces of a sandbox but its pids and its user, in the order in which they travel.
NAMESPACES = (CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWCGROUP)

# Where a package zygote has what it needs.
ZYGOTE_FD = 3
ZYGOTE_PIDS_FD = 4
_PR_SET_KEEPCAPS = 8
_CAP_SYS_CHROOT = 18
_CAP_SYS_ADMIN = 21


def setns(fd, flags):
    """setns(2); Python has it from 3.12 on only."""
    _check(_libc.setns(fd, flags), "setns")


def enter(
    namespaces, user, doors, connection, out, err, handler_id, landlock, internet, seccomp
):
    """Locks this process in. Returns the number that the instance's socket has from now on.

    namespaces  pairs of a descriptor and the kinds of namespaces of it to enter
    user        the handler's user namespace
    doors       the cgroup.procs files to join
    connection  the instance's socket
    out, err    where what the handler prints goes
    handler_id  user and group in the user namespace
    landlock    version of Landlock to be used, 0 on a kernel without it
    internet    whether TCP is not to be refused, for its packets are filtered outside
    seccomp     filter programs, in the order of their installation
    """
    for door in doors:
        os.write(door, b"0")
    for fd, kinds in namespaces:
        setns(fd, kinds)
    setns(user, CLONE_NEWUSER)
    os.setsid()
    os.umask(0o077)
    _files(connection, out, err)
    _limits()
    _privileges(handler_id)
    os.chdir("/tmp")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if landlock:
        _landlock(landlock, internet)
    for program in seccomp:
        _install(program)
    return _INSTANCE_FD


def cage(namespaces, worker, own_pids, doors, uid, seccomp):
    """Locks this process in as a package zygote, which runs code that is not ours and has to fork into sandboxes.

    Entering a sandbox's namespaces takes two capabilities over the host's, and the pids of the host (a process
    may only be born into a namespace below its own). They are all that is left, and the system calls that they
    would be good for are closed but setns, which needs a descriptor: the worker gives it those of sandboxes
    whose function uses these packages anyway.

    namespaces  as for `enter`: those of a sandbox made for this zygote
    worker      the socket to the worker
    own_pids    the host's pid namespace
    uid         the host user to become; None in a child of a package zygote, which has all this behind it
    seccomp     filter programs
    """
    for door in doors:
        os.write(door, b"0")
    for fd, kinds in namespaces:
        setns(fd, kinds)
    os.setsid()
    os.umask(0o077)
    worker = os.dup2(worker, 100)
    own_pids = os.dup2(own_pids, 101)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.dup2(worker, ZYGOTE_FD, inheritable=False)
    os.dup2(own_pids, ZYGOTE_PIDS_FD, inheritable=False)
    os.closerange(ZYGOTE_PIDS_FD + 1, 2**31 - 1)
    os.chdir("/")
    if uid is None:
        return
    _limits()
    _drop_bounds()
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _capabilities(1 << _CAP_SYS_ADMIN | 1 << _CAP_SYS_CHROOT)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for program in seccomp:
        _install(program)


def _files(connection, out, err):
    """Leaves four descriptors: an empty stdin, both outputs, the instance's socket."""
    # First above all numbers that are to be overwritten.
    connection = os.dup2(connection, 100)
    out = os.dup2(out, 101)
    err = os.dup2(err, 102)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(connection, _INSTANCE_FD, inheritable=False)
    os.closerange(_INSTANCE_FD + 1, 2**31 - 1)


def _limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES_MAX, _OPEN_FILES_MAX))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))


def _drop_bounds():
    for capability in range(64):
        if _raw_prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the kernel knows no more of them
    else:
        raise OSError("the bounding set has no end")


def _privileges(handler_id):
    _drop_bounds()
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_SECUREBITS, _SECUREBITS_ALL_LOCKED)
    os.setgroups([])
    os.setresgid(handler_id, handler_id, handler_id)
    os.setresuid(handler_id, handler_id, handler_id)
    _capabilities(0)


def _capabilities(mask):
    """Leaves these capabilities, effective and permitted, and none to be inherited."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    sets = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(_libc.capset(header, sets), "capset")


def _landlock(version, internet=False):
    """A second wall behind the mounts: nothing but /tmp can be written, wherever it is and whatever mounts it.

    A function's code is mounted later, and a rule for a directory does not hold for what is mounted over it: so
    what may be read and run is everything below the root, which is all that the mounts show.
    """
    handled = (1 << _FILE_RIGHTS[min(version, len(_FILE_RIGHTS) - 1)]) - 1
    attributes = [handled]
    if version >= _TCP_SINCE:
        attributes.append(0 if internet else _TCP_RIGHTS)
    if version >= _SCOPES_SINCE:
        # Neither signals to, nor abstract Unix sockets of, processes that are not behind the same wall.
        attributes.append(_SCOPES)
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, packed, len(packed), 0)
    for path, rights in (
        ("/", _RUN_AND_READ),
        ("/dev", _RUN_AND_READ | _WRITE | _ASK_DEVICES),
        ("/tmp", _RUN_AND_READ | _WRITE | _CHANGE_NAMES),
    ):
        fd = os.open(path, _O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights & handled, fd)
        _syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        os.close(fd)
    _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _install(program):
    instructions = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(instructions))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _prctl(option, first, second=0):
    _check(_raw_prctl(option, first, second, 0, 0), f"prctl({option})")


def _syscall(number, *arguments):
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    returned = _libc.syscall(ctypes.c_long(number), *wide)
    if returned < 0:
        _check(returned, f"system call {number}")
    return returned


def _check(returned, what):
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
