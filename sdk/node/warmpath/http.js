'use strict';
// Handlers that speak HTTP: what they are given, and what becomes of what they return.

/** A request of HTTP: method, base, path (without escapes), query, headers (an object, names in lower case), body. */
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
    this.body = body;
  }

  text() {
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
  if (body instanceof Uint8Array) {
    return [Buffer.from(body), 'application/octet-stream'];
  }
  if (typeof body === 'string') {
    return [Buffer.from(body), body && 'text/plain; charset=utf-8'];
  }
  return [Buffer.from(JSON.stringify(body)), 'application/json'];
}

module.exports = { Request, answer };
