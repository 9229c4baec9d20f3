"""The zygote: a Python with everything imported that handlers commonly use, from which instances are forked.

It runs trusted code only and stays single-threaded. The worker sends it one command for each instance, with the
descriptors that the instance needs; the answer carries a pidfd of the new process. It ends when the worker does.
"""

# Imported for the instances' sake: forked memory is shared, and importing takes far longer than forking.
# ruff: noqa: F401
import asyncio
import base64
import collections
import contextlib
import csv
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import hashlib
import hmac
import html
import io
import itertools
import json
import logging
import math
import operator
import os
import pathlib
import random
import re
import secrets
import signal
import socket
import statistics
import string
import struct
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import typing
import urllib.parse
import uuid
import zlib

from warmpath import _failure, _lockdown, _packages, _runtime, _wire

_COMMAND_BYTES_MAX = 65536
_FDS_MAX = 16


def main():
    worker = socket.socket(fileno=0)
    # Instances are reaped by the kernel at once: a pid namespace ends only when all its processes are reaped.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    # What exists now will not be looked at by any collection, so that its pages stay shared.
    gc.collect()
    gc.freeze()
    worker.send(json.dumps({"ready": os.getpid()}).encode())
    _serve(worker, own_pids)


def _serve(worker, own_pids):
    """Does what the worker says, until the worker is gone."""
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(worker, _COMMAND_BYTES_MAX, _FDS_MAX)
        except InterruptedError:
            continue
        if not message:
            return
        command = json.loads(message)
        try:
            grows = "imports" in command
            answer, pidfd = (_grow if grows else _spawn)(command, fds, own_pids)
        except OSError as error:
            answer, pidfd = {"error": str(error)}, None
        finally:
            for fd in fds:
                os.close(fd)
        socket.send_fds(worker, [json.dumps(answer).encode()], [pidfd] if pidfd else [])
        if pidfd:
            os.close(pidfd)


def _spawn(command, fds, own_pids):
    """Forks one instance into the sandbox that `fds` stand for."""
    if command["namespaces"]:
        pids, fds = fds[0], fds[1:]
        namespaces, fds = _namespaces(fds)
    else:
        init, *fds = fds
        pids, namespaces = init, [(init, sum(_lockdown.NAMESPACES))]
    user, connection, out, err, *doors = fds
    # Children are born in that pid namespace; this process stays where it is.
    _lockdown.setns(pids, _lockdown.CLONE_NEWPID)
    try:
        pid = os.fork()
        if pid == 0:
            _become_instance(command, namespaces, user, connection, (out, err), doors)
    finally:
        _lockdown.setns(own_pids, _lockdown.CLONE_NEWPID)
    return {"pid": pid}, os.pidfd_open(pid)


def _namespaces(fds):
    """Splits off those that are a sandbox's namespaces."""
    count = len(_lockdown.NAMESPACES)
    return list(zip(fds, _lockdown.NAMESPACES)), fds[count:]


def _grow(command, fds, own_pids):
    """Forks another zygote, which has more imported than this one."""
    pid = os.fork()
    if pid == 0:
        _become_zygote(command, fds, own_pids)
    return {"pid": pid}, os.pidfd_open(pid)


def _become_zygote(command, fds, own_pids):
    """The rest of the life of a package zygote; it never returns."""
    try:
        namespaces, (worker, *doors) = _namespaces(fds)
        seccomp = [bytes.fromhex(program) for program in command["seccomp"]]
        _lockdown.cage(namespaces, worker, own_pids, doors, command["uid"], seccomp)
        worker = socket.socket(fileno=_lockdown.ZYGOTE_FD)
        worker.send(json.dumps(_packages.warm(command)).encode())
        _serve(worker, _lockdown.ZYGOTE_PIDS_FD)
    finally:
        os._exit(0)


def _become_instance(command, namespaces, user, connection, outputs, doors):
    """The rest of the life of a forked process; it never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        seccomp = [bytes.fromhex(program) for program in command["seccomp"]]
        fd = _lockdown.enter(
            namespaces,
            user,
            doors,
            connection,
            *outputs,
            command["handler_id"],
            command["landlock"],
            command["internet"],
            seccomp,
        )
        _packages.reseed()
        _runtime.serve(_wire.Connection(socket.socket(fileno=fd)))
        status = 0
    except BaseException:  # whatever it is, the zygote's loop must not go on in this process
        traceback.print_exc()
    finally:
        _failure.flush()
        os._exit(status)
