"""The database, as a handler sees it: keys and values are bytes (str is taken as UTF-8).

A key belongs to a slot, as in Redis Cluster; a function with `affinity = "shard"` runs where the slot of the
request's shard key is stored, and its reads and writes are local then. Only usable while a request is served.
"""

import binascii
import struct

from warmpath import _context, _wire

_U32 = struct.Struct(">I")
_GET, _PUT, _DELETE, _COMPARE_AND_SET, _SCAN = range(1, 6)
_HEAD = 7
_VALUE, _WRITTEN, _CONFLICT, _ROWS, _FEED = range(1, 6)
_SLOTS = 16384


class DbError(Exception):
    """The database did not do what was asked.

    kind       one stable word, such as "no_owner" or "disk_full"
    retryable  whether the same operation may succeed later and was not done
    """

    def __init__(self, message, kind, retryable):
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable


def get(key):
    """The value of `key`, or None."""
    reply = _ask(bytes([_GET]) + _field(key))
    return reply.maybe() if reply.expect(_VALUE) else None


def put(key, value):
    """Sets `key` to `value`; durable when this returns."""
    _ask(bytes([_PUT]) + _field(key) + _field(value)).expect(_WRITTEN)


def delete(key):
    """Removes `key`; no error if it is absent."""
    _ask(bytes([_DELETE]) + _field(key)).expect(_WRITTEN)


def compare_and_set(key, expected, value):
    """Sets `key` to `value` if it holds `expected` (None: if it is absent); whether it did."""
    expected = b"\0" if expected is None else b"\1" + _field(expected)
    reply = _ask(bytes([_COMPARE_AND_SET]) + _field(key) + expected + _field(value))
    return reply.kind == _WRITTEN


def scan(prefix, limit=100, after=None):
    """Rows `(key, value)` whose keys begin with `prefix`, in order, behind the key `after` if given.

    The prefix must hold a hash tag such as "{user42}", so that its keys share a slot.
    """
    after = b"\0" if after is None else b"\1" + _field(after)
    reply = _ask(bytes([_SCAN]) + _field(prefix) + after + _U32.pack(limit))
    reply.expect(_ROWS)
    reply.u8()  # whether there is more: the caller sees it by the count
    return [(reply.field(), reply.field()) for _ in range(reply.u32())]


def slot_of(key):
    """The slot of `key`: CRC16 of it, or of what stands in its first braces, as in Redis Cluster."""
    key = _bytes(key)
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    tag = key[start + 1 : end] if 0 <= start < end - 1 else key
    return binascii.crc_hqx(tag, 0) % _SLOTS


def cursor(key=None, *, slot=None):
    """Where the change feed of the slot of `key`, or of `slot`, ends now: each write there moves it by one."""
    if slot is None:
        slot = slot_of(key)
    reply = _ask(bytes([_HEAD]) + slot.to_bytes(2, "big"))
    reply.expect(_FEED)
    return reply.u64()


def _bytes(value):
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"keys and values are bytes or str, not {type(value).__name__}")
    return bytes(value)


def _field(value):
    value = _bytes(value)
    return _U32.pack(len(value)) + value


def _ask(op):
    request = _context.current()
    with request.turn:
        exchange = request.exchange
        if exchange is None:
            raise RuntimeError("warmpath.db can be used only while a request is served, and by its own threads")
        kind, meta, data = exchange(op)
    if kind != _wire.DB_REPLY:
        raise RuntimeError("the worker answered a database request with something else")
    if "error" in meta:
        raise DbError(meta["error"], meta["kind"], meta["retryable"])
    return _Reply(data)


class _Reply:
    def __init__(self, data):
        self._data = data
        self._at = 1
        self.kind = data[0]

    def expect(self, kind):
        if self.kind != kind:
            raise RuntimeError(f"unexpected reply {self.kind} of the database")
        return True

    def u8(self):
        self._at += 1
        return self._data[self._at - 1]

    def u32(self):
        self._at += 4
        return _U32.unpack_from(self._data, self._at - 4)[0]

    def u64(self):
        self._at += 8
        return int.from_bytes(self._data[self._at - 8 : self._at], "big")

    def field(self):
        length = self.u32()
        self._at += length
        return self._data[self._at - length : self._at]

    def maybe(self):
        return self.field() if self.u8() else None
