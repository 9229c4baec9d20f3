'use strict';
// Warmpath's library for handlers in JavaScript: `const warmpath = require('warmpath')`.
//
// A handler is a module with `exports.f = async (event, context) => reply`. With `interface = "http"` it is
// `exports.f = async (request, context) => ({ status, headers, body })`.

/** What a handler can know of the request it serves. There is one object; it changes with each request. */
const context = {
  requestId: 0,
  session: null,
  deadlineMs: 0,
  function: '',
  worker: '',
  instance: 0,
  started: 0,
  /** Milliseconds left until the instance is killed for taking too long. */
  remainingMs() {
    return Math.max(0, Math.floor(this.deadlineMs - (performance.now() - this.started)));
  },
};

module.exports = { context, db: null };
