'use strict';
// Handlers that speak HTTP: what they are given, and what becomes of what they return.

const stream = require('./stream');

/**
 * A request of HTTP: method, base, path (without escapes), query, headers (an object, names in lower case), and its body
 * as a Buffer. To a handler with `f.streams = true` a long body follows: `body` is null then, and `stream()` gives it
 * piece by piece, `bytes()` whole.
 */
class Request {
  constructor(head, body) {
    this.method = head.method;
    this.base = head.base;
    this.rawPath = head.path;
    this.path = decodeURIComponent(head.path);
    this.query = new URLSearchParams(head.query);
    this.headers = {};
    for (const [name, value] of head.headers) {
      const separator = name === 'cookie' ? '; ' : ', ';
      this.headers[name] = name in this.headers ? this.headers[name] + separator + value : value;
    }
    this.body = Buffer.isBuffer(body) ? body : null;
    this.follows = body;
  }

  /** The body as it comes: to be iterated with `for await`, once. */
  async *stream() {
    if (this.body === null) {
      yield* this.follows;
    } else if (this.body.length > 0) {
      yield this.body;
    }
  }

  /** All of a body that follows; after that it is in `body`, for `text()` and `json()`. */
  async bytes() {
    this.body ??= await stream.whole(this.follows);
    return this.body;
  }

  text() {
    if (this.body === null) {
      throw new Error('the body follows: await request.bytes() first, or iterate request.stream()');
    }
    return this.body.toString();
  }

  json() {
    return JSON.parse(this.text());
  }
}

/** Reply and meta of what a handler returned. */
function answer(returned) {
  const given = returned ?? {};
  const { status = 200, headers = {}, body = '' } = given;
  const pairs = [];
  for (const [name, value] of Array.isArray(headers) ? headers : Object.entries(headers)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      pairs.push([String(name).toLowerCase(), String(one)]);
    }
  }
  const [bytes, kind] = encoded(body);
  if (kind && !pairs.some(([name]) => name === 'content-type')) {
    pairs.push(['content-type', kind]);
  }
  return [bytes, { status, headers: pairs }];
}

function encoded(body) {
  if (stream.isPieces(body)) {
    return [body, 'application/octet-stream'];
  }
  if (body instanceof Uint8Array) {
    return [Buffer.from(body), 'application/octet-stream'];
  }
  if (typeof body === 'string') {
    return [Buffer.from(body), body && 'text/plain; charset=utf-8'];
  }
  return [Buffer.from(JSON.stringify(body)), 'application/json'];
}

module.exports = { Request, answer };
