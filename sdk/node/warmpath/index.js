'use strict';
// Warmpath's library for handlers in JavaScript: `const warmpath = require('warmpath')`.
//
// A handler is a module with `exports.f = async (event, context) => reply`. With `interface = "http"` it is
// `exports.f = async (request, context) => ({ status, headers, body })`. `warmpath.context` and `warmpath.db` belong
// to the request on whose behalf they are used, also where several are served at a time.

const { AsyncLocalStorage } = require('node:async_hooks');

const calls = new AsyncLocalStorage();

/** What a handler can know of the request it serves. */
class Context {
  constructor(instance, meta) {
    this.requestId = meta.request_id ?? 0;
    this.session = meta.session ?? null;
    this.deadlineMs = meta.deadline_ms ?? 0;
    this.function = meta.function ?? instance.function;
    this.worker = instance.worker;
    this.instance = instance.instance;
    this.started = performance.now();
  }

  /** Milliseconds left until the instance is killed for taking too long. */
  remainingMs() {
    return Math.max(0, Math.floor(this.deadlineMs - (performance.now() - this.started)));
  }
}

module.exports = {
  db: null,
  /** The context of the request that is served; null while none is. */
  get context() {
    return calls.getStore()?.context ?? null;
  },
};

// For the runtime, not for handlers.
Object.defineProperty(module.exports, 'runtime', { value: { calls, Context }, enumerable: false });
