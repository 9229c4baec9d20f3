'use strict';
// Frames between an instance and its worker; docs/runtime-protocol.md draws them.
//
//     type:u8  meta_len:u32  data_len:u32  meta (JSON, may be empty)  data

const net = require('node:net');

const READY = 1;
const LOAD = 2;
const INVOKE = 3;
const RESULT = 4;
const ERROR = 5;
const DB_REQUEST = 6;
const DB_REPLY = 7;
const CHUNK = 9;
const GO_ON = 10;
const BODY = 11;
const PULL = 12;
const GONE = 14;

const HEADER_BYTES = 9;
const INSTANCE_FD = 3;

/** The instance's socket: frames out, and each frame that comes in to `onFrame(kind, meta, data)`. */
class Connection {
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.ahead = Buffer.alloc(0);
    this.socket = new net.Socket({ fd: INSTANCE_FD, readable: true, writable: true });
    this.socket.on('data', (bytes) => this.take(bytes));
    // The worker is gone, or has no more use for this instance.
    this.socket.on('close', () => process.exit(0));
    this.socket.on('error', () => process.exit(0));
  }

  send(kind, meta, data = Buffer.alloc(0)) {
    const json = meta === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(meta));
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt8(kind, 0);
    header.writeUInt32BE(json.length, 1);
    header.writeUInt32BE(data.length, 5);
    this.socket.write(Buffer.concat([header, json, data]));
  }

  take(bytes) {
    this.ahead = this.ahead.length === 0 ? bytes : Buffer.concat([this.ahead, bytes]);
    while (this.ahead.length >= HEADER_BYTES) {
      const metaEnd = HEADER_BYTES + this.ahead.readUInt32BE(1);
      const end = metaEnd + this.ahead.readUInt32BE(5);
      if (this.ahead.length < end) {
        return;
      }
      const frame = this.ahead;
      this.ahead = frame.subarray(end);
      const meta = metaEnd > HEADER_BYTES ? JSON.parse(frame.subarray(HEADER_BYTES, metaEnd)) : {};
      this.onFrame(frame.readUInt8(0), meta, frame.subarray(metaEnd, end));
    }
  }
}

/** The meta of a frame about the request `call`, if it has a number: it is one of several at a time then. */
function metaOf(call, more = {}) {
  const meta = call === undefined ? more : { call, ...more };
  return Object.keys(meta).length > 0 ? meta : undefined;
}

module.exports = {
  metaOf,
  READY,
  LOAD,
  INVOKE,
  RESULT,
  ERROR,
  DB_REQUEST,
  DB_REPLY,
  CHUNK,
  GO_ON,
  BODY,
  PULL,
  GONE,
  Connection,
};
