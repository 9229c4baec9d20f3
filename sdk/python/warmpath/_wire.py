"""Frames between an instance and its worker; docs/runtime-protocol.md draws them.

    type:u8  meta_len:u32  data_len:u32  meta (JSON, may be empty)  data
"""

import json
import select
import struct
import threading

READY = 1
LOAD = 2
INVOKE = 3
RESULT = 4
ERROR = 5
DB_REQUEST = 6
DB_REPLY = 7
WAIT = 8
CHUNK = 9
GO_ON = 10
BODY = 11
PULL = 12
PROFILE = 13
GONE = 14

_HEADER = struct.Struct(">BII")
# Nothing stands around it, as it might around what `json.loads` takes.
_meta = json.JSONDecoder().raw_decode
# A request fits as a rule; of a longer one the rest is read at once.
_RECEIVE_BYTES = 8192


class Closed(Exception):
    """The worker closed the socket: the instance has to end."""


class Connection:
    """The instance's socket, with what was read ahead."""

    def __init__(self, sock):
        self._sock = sock
        self._ahead = b""
        self._sending = threading.Lock()

    def receive(self):
        """The next frame: its type, its meta (a dict) and its data (bytes)."""
        ahead = self._ahead
        if len(ahead) < _HEADER.size:
            ahead = self._more(ahead, _HEADER.size)
        kind, meta_len, data_len = _HEADER.unpack_from(ahead)
        start = _HEADER.size + meta_len
        end = start + data_len
        if len(ahead) < end:
            ahead = self._more(ahead, end)
        self._ahead = ahead[end:]
        meta = _meta(ahead[_HEADER.size : start].decode())[0] if meta_len else {}
        return kind, meta, ahead[start:end]

    def has_more(self):
        """Whether something has come that was not received yet."""
        return bool(self._ahead) or bool(select.select([self._sock], [], [], 0)[0])

    def send(self, kind, meta=None, data=b""):
        meta = json.dumps(meta).encode() if meta else b""
        frame = _HEADER.pack(kind, len(meta), len(data)) + meta + data
        with self._sending:
            self._sock.sendall(frame)

    def close(self):
        """In a process that the handler forked: nothing is sent from here, whoever was sending then."""
        self._sending = threading.Lock()
        self._sock.close()

    def _more(self, ahead, count):
        """What was read ahead, and as much behind it that it is `count` bytes at least."""
        parts = [ahead] if ahead else []
        have = len(ahead)
        while have < count:
            part = self._sock.recv(max(_RECEIVE_BYTES, count - have))
            if not part:
                raise Closed
            parts.append(part)
            have += len(part)
        # The usual request is one part, which `join` hands back as it is.
        return b"".join(parts)
