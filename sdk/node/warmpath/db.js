'use strict';
// The database, as a handler sees it: keys and values are Buffers (strings are taken as UTF-8). Every function
// returns a promise. Only usable while a request is served.

const wire = require('./wire');

const [GET, PUT, DELETE, COMPARE_AND_SET, SCAN] = [1, 2, 3, 4, 5];
const [VALUE, WRITTEN, CONFLICT, ROWS] = [1, 2, 3, 4];

/** The database did not do what was asked. `kind` is one stable word, such as "no_owner". */
class DbError extends Error {
  constructor(message, kind, retryable) {
    super(message);
    this.name = 'DbError';
    this.kind = kind;
    this.retryable = retryable;
  }
}

class Reply {
  constructor(data) {
    this.data = data;
    this.at = 1;
    this.kind = data[0];
  }

  expect(kind) {
    if (this.kind !== kind) {
      throw new Error(`unexpected reply ${this.kind} of the database`);
    }
    return this;
  }

  u8() {
    this.at += 1;
    return this.data[this.at - 1];
  }

  u32() {
    this.at += 4;
    return this.data.readUInt32BE(this.at - 4);
  }

  field() {
    const length = this.u32();
    this.at += length;
    return Buffer.from(this.data.subarray(this.at - length, this.at));
  }
}

function bytesOf(value) {
  if (typeof value === 'string') {
    return Buffer.from(value);
  }
  if (value instanceof Uint8Array) {
    return Buffer.from(value);
  }
  throw new TypeError(`keys and values are Buffers or strings, not ${typeof value}`);
}

function u32(number) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(number);
  return bytes;
}

function field(value) {
  const bytes = bytesOf(value);
  return Buffer.concat([u32(bytes.length), bytes]);
}

function optional(value) {
  const absent = value === null || value === undefined;
  return absent ? Buffer.from([0]) : Buffer.concat([Buffer.from([1]), field(value)]);
}

/**
 * The database of one instance. `current` gives the request on whose behalf it is used; the operations of one go out
 * one at a time, in the order they were asked for.
 */
class Db {
  constructor(send, current) {
    this.send = send;
    this.current = current;
    this.waiting = new Map();
  }

  /** The value of `key`, or null. */
  async get(key) {
    const reply = (await this.ask(GET, field(key))).expect(VALUE);
    return reply.u8() ? reply.field() : null;
  }

  /** Sets `key` to `value`; durable when the promise resolves. */
  async put(key, value) {
    (await this.ask(PUT, field(key), field(value))).expect(WRITTEN);
  }

  /** Removes `key`; no error if it is absent. */
  async delete(key) {
    (await this.ask(DELETE, field(key))).expect(WRITTEN);
  }

  /** Sets `key` to `value` if it holds `expected` (null: if it is absent); whether it did. */
  async compareAndSet(key, expected, value) {
    const reply = await this.ask(COMPARE_AND_SET, field(key), optional(expected), field(value));
    return reply.kind === CONFLICT ? false : Boolean(reply.expect(WRITTEN));
  }

  /** Rows `[key, value]` whose keys begin with `prefix`, in order, behind the key `after` if given. */
  async scan(prefix, limit = 100, after = null) {
    const reply = (await this.ask(SCAN, field(prefix), optional(after), u32(limit))).expect(ROWS);
    reply.u8(); // whether there is more: the caller sees it by the count
    const count = reply.u32();
    return Array.from({ length: count }, () => [reply.field(), reply.field()]);
  }

  ask(op, ...parts) {
    return new Promise((resolve, reject) => {
      const request = this.current();
      if (!request?.isOpen) {
        reject(new Error('warmpath.db can be used only while a request is served'));
        return;
      }
      const { call } = request;
      const queue = this.waiting.get(call) ?? [];
      queue.push({ data: Buffer.concat([Buffer.from([op]), ...parts]), resolve, reject });
      this.waiting.set(call, queue);
      if (queue.length === 1) {
        this.next(call, queue);
      }
    });
  }

  next(call, queue) {
    this.send(wire.DB_REQUEST, wire.metaOf(call), queue[0].data);
  }

  /** A reply to the operation of its request that went out first. */
  answered(meta, data) {
    const queue = this.waiting.get(meta.call);
    const { resolve, reject } = queue.shift();
    if (queue.length > 0) {
      this.next(meta.call, queue);
    } else {
      this.waiting.delete(meta.call);
    }
    if ('error' in meta) {
      reject(new DbError(meta.error, meta.kind, meta.retryable));
    } else {
      resolve(new Reply(data));
    }
  }
}

module.exports = { Db, DbError };
