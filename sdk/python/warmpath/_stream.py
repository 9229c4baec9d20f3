"""Replies and bodies in pieces: what a handler gives and takes bit by bit, and how that reaches its caller.

A *flow* is one call's way to the worker and back; `_runtime` has the one of an instance that serves one request at a
time, `_calls` those of an instance that serves several. Both have

    window          how many pieces a reply may be ahead of its caller; 0 if that takes no stream
    chunk(…)        sends a piece; waits for room
    chunk_async(…)  the same as a coroutine
    pull()          the next piece of the body, or None at its end; waits for it

and raise `Gone` from all three once the caller has gone.
"""

import io

PIECE_BYTES_MAX = 65536
# Statuses of responses that have no body (RFC 9110, 6.4.1).
_WITHOUT_BODY = (204, 304)


class Gone(ConnectionError):
    """The caller has gone: nothing of its request is wanted any more."""


class Pieces:
    """A reply in pieces: an iterator, plain or async, of bytes or text; and how long it is together if that is known."""

    __slots__ = ("iterator", "length")

    def __init__(self, iterator, length=None):
        self.iterator = iterator
        self.length = length


def is_iterator(returned):
    """Whether what a handler returned comes bit by bit: a generator, a file, anything that has a next. Lists do not."""
    return hasattr(returned, "__next__") or hasattr(returned, "__anext__")


class Input(io.BufferedReader):
    """The body of a request that follows, as a file; iterate `pieces()`, or in a coroutine `async for`, to have them as
    they come.
    """

    def __init__(self, flow):
        raw = _RawInput(flow)
        super().__init__(raw, PIECE_BYTES_MAX)
        self.next_piece = raw.next_piece

    def pieces(self):
        """The pieces as they come. Not to be mixed with reads."""
        while piece := self.next_piece():
            yield piece

    async def __aiter__(self):
        import asyncio

        while piece := await asyncio.to_thread(self.next_piece):
            yield piece


class _RawInput(io.RawIOBase):
    def __init__(self, flow):
        self._flow = flow
        self._piece = b""
        self._is_over = False

    def readable(self):
        return True

    def next_piece(self):
        piece, self._piece = self._piece, b""
        if not piece and not self._is_over:
            piece = self._flow.pull()
            self._is_over = piece is None
        return piece or b""

    def readinto(self, buffer):
        piece = self.next_piece()
        count = min(len(buffer), len(piece))
        buffer[:count] = piece[:count]
        self._piece = piece[count:]
        return count


class PlainInput(io.BytesIO):
    """A body that is here already, with the methods of `Input`."""

    def pieces(self):
        if piece := self.read():
            yield piece

    async def __aiter__(self):
        if piece := self.read():
            yield piece


def whole(body):
    """All of a body."""
    return body if isinstance(body, bytes) else body.read()


async def whole_async(body):
    """All of a body, without keeping others waiting."""
    if isinstance(body, bytes):
        return body
    import asyncio

    return await asyncio.to_thread(body.read)


def run(handler, body, head, flow):
    """Runs a handler, and sends what it gives bit by bit: reply and head that are left for the result."""
    reply, said = handler.run(body, head)
    return _deliver(reply, said, flow) if isinstance(reply, Pieces) else (reply, said)


async def run_async(handler, body, head, flow):
    """The same for an `async def`."""
    reply, said = await handler.run_async(body, head)
    return await _deliver_async(reply, said, flow) if isinstance(reply, Pieces) else (reply, said)


def _deliver(reply, said, flow):
    sender = _Sender(reply, said, flow)
    iterator = iter(reply.iterator)
    try:
        for piece in iterator:
            for part in sender.parts(piece):
                flow.chunk(part, sender.take_said())
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
    return sender.rest()


async def _deliver_async(reply, said, flow):
    iterator = reply.iterator
    if not hasattr(iterator, "__anext__"):
        return _deliver(reply, said, flow)
    sender = _Sender(reply, said, flow)
    try:
        async for piece in iterator:
            for part in sender.parts(piece):
                await flow.chunk_async(part, sender.take_said())
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
    return sender.rest()


class _Sender:
    """Cuts a reply into what may be sent, or puts it together if it is short or its caller takes no stream."""

    def __init__(self, reply, said, flow):
        self._said = said
        self._is_told = False
        fits = reply.length is not None and reply.length <= PIECE_BYTES_MAX
        has_no_body = said is not None and said["status"] in _WITHOUT_BODY
        self._kept = Joined() if fits or has_no_body or not flow.window else None

    def parts(self, piece):
        piece = _bytes_of(piece)
        if self._kept is not None:
            self._kept.add(piece)
            return
        for start in range(0, len(piece), PIECE_BYTES_MAX):
            yield piece[start : start + PIECE_BYTES_MAX]

    def take_said(self):
        said = None if self._is_told else self._said
        self._is_told = True
        return said

    def rest(self):
        return (b"" if self._kept is None else self._kept.bytes()), self.take_said()


class Joined:
    """A reply that is put together from its pieces."""

    def __init__(self):
        self._pieces = []
        self._length = 0

    def add(self, piece):
        """Keeps a piece, if the whole still fits a message."""
        self._length += len(piece)
        if self._length > PIECE_BYTES_MAX:
            raise ValueError(f"the reply is longer than {PIECE_BYTES_MAX} bytes, and its caller takes no stream")
        self._pieces.append(bytes(piece))

    def bytes(self):
        """The whole."""
        return b"".join(self._pieces)


def _bytes_of(piece):
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"the pieces of a reply are bytes or text, not {type(piece).__name__}")


def of_event(returned, kind):
    """The reply of an event handler that came bit by bit, and what stands before it."""
    return Pieces(returned), {"status": 200, "headers": [["content-type", kind]]}
