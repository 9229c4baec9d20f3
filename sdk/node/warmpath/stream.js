'use strict';
// Replies and bodies in pieces: one call's way to the worker and back (docs/runtime-protocol.md, "Streams").

const wire = require('./wire');

const PIECE_BYTES_MAX = 65536;
// Statuses of responses that have no body (RFC 9110, 6.4.1).
const WITHOUT_BODY = [204, 304];

/** The caller has gone: nothing of its request is wanted any more. */
class Gone extends Error {
  constructor() {
    super('the caller has gone');
    this.name = 'Gone';
  }
}

/** What a handler returned that comes bit by bit: something that can be iterated, and is neither bytes, text nor a list. */
function isPieces(returned) {
  return (
    typeof returned === 'object' &&
    returned !== null &&
    !(returned instanceof Uint8Array) &&
    !Array.isArray(returned) &&
    (typeof returned[Symbol.asyncIterator] === 'function' || typeof returned.next === 'function')
  );
}

/** The streams of one call. */
class Flow {
  constructor(send, meta) {
    this.send = (kind, more, data) => send(kind, wire.metaOf(meta.call, more), data);
    this.window = meta.stream ?? 0;
    this.room = this.window;
    this.isGone = false;
    this.moved = [];
    this.piece = null;
  }

  /** Takes in a frame. */
  hear(kind, meta, data) {
    if (kind === wire.GO_ON) {
      this.room += 1;
    } else if (kind === wire.GONE) {
      this.isGone = true;
    } else {
      this.piece = { data, isEnd: meta.end === true };
    }
    for (const resolve of this.moved.splice(0)) {
      resolve();
    }
  }

  async until(isThere) {
    while (!isThere() && !this.isGone) {
      await new Promise((resolve) => this.moved.push(resolve));
    }
    if (this.isGone) {
      throw new Gone();
    }
  }

  /** The body as it comes. */
  async *body() {
    for (;;) {
      if (this.isGone) {
        throw new Gone();
      }
      this.send(wire.PULL);
      await this.until(() => this.piece !== null);
      const { data, isEnd } = this.piece;
      this.piece = null;
      if (isEnd) {
        return;
      }
      yield Buffer.from(data);
    }
  }

  /** Sends a reply that comes bit by bit: what is left for the result. */
  async deliver(pieces, said) {
    const isWhole = this.window === 0 || WITHOUT_BODY.includes(said.status);
    const kept = [];
    let length = 0;
    let head = said;
    for await (const given of pieces) {
      const piece = bytesOf(given);
      length += piece.length;
      if (isWhole) {
        if (length > PIECE_BYTES_MAX) {
          throw new RangeError(`the reply is longer than ${PIECE_BYTES_MAX} bytes, and its caller takes no stream`);
        }
        kept.push(piece);
        continue;
      }
      for (let start = 0; start < piece.length; start += PIECE_BYTES_MAX) {
        await this.until(() => this.room > 0);
        this.room -= 1;
        this.send(wire.CHUNK, head, piece.subarray(start, start + PIECE_BYTES_MAX));
        head = {};
      }
    }
    return [Buffer.concat(kept), head];
  }
}

function bytesOf(piece) {
  if (typeof piece === 'string') {
    return Buffer.from(piece);
  }
  if (piece instanceof Uint8Array) {
    return Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
  }
  throw new TypeError(`the pieces of a reply are bytes or text, not ${typeof piece}`);
}

/** All of a body that follows. */
async function whole(pieces) {
  const all = [];
  for await (const piece of pieces) {
    all.push(piece);
  }
  return Buffer.concat(all);
}

module.exports = { Flow, Gone, isPieces, whole };
