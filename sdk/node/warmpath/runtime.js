'use strict';
// The loop of an instance: load the function once, then serve what comes. Started by the worker inside a sandbox
// that is already locked in (docs/runtime-protocol.md, "Runtimes that are executed").

const Module = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const http = require('./http');
const warmpath = require('./index');
const stream = require('./stream');
const wire = require('./wire');
const { Db } = require('./db');

const HANDLER_DIR = '/handler';
const LAYERS_DIR = '/layers';
const HANDLER_NAME = 'f';
// Bounded, as every reply is.
const KIND_CHARS_MAX = 128;
const MESSAGE_CHARS_MAX = 4096;

let instance = null;
let run = null;
// The streams of the calls that run, by their numbers.
const flows = new Map();

const connection = new wire.Connection((kind, meta, data) => {
  if (kind === wire.LOAD) {
    load(meta);
  } else if (kind === wire.INVOKE) {
    invoke(meta, data);
  } else if (kind === wire.DB_REPLY) {
    warmpath.db.answered(meta, data);
  } else {
    // What comes for a call that has ended is nobody's.
    flows.get(meta.call)?.hear(kind, meta, data);
  }
});
const { calls, Context } = warmpath.runtime;
const send = (kind, meta, data) => connection.send(kind, meta, data);
warmpath.db = new Db(send, () => calls.getStore());

async function load(meta) {
  instance = meta;
  try {
    process.chdir(HANDLER_DIR);
    searchLayers(meta.layers ?? []);
    const handler = await handlerOf(meta.entry);
    run = adapter(handler, meta);
  } catch (error) {
    fail(error);
    connection.socket.end();
    return;
  }
  connection.send(wire.READY, { streams: true });
}

/** Packages of `package.json` are found as the library is; what the function brings itself comes first. */
function searchLayers(layers) {
  const directories = layers.map((name) => path.join(LAYERS_DIR, name, 'node_modules'));
  process.env.NODE_PATH = [...directories, process.env.NODE_PATH].join(':');
  Module._initPaths();
}

async function handlerOf(entry) {
  const file = path.join(HANDLER_DIR, entry);
  const module = entry.endsWith('.mjs') ? await import(pathToFileURL(file)) : require(file);
  const handler = module[HANDLER_NAME] ?? module.default?.[HANDLER_NAME];
  if (typeof handler !== 'function') {
    throw new Error(`${entry} exports no function ${HANDLER_NAME}`);
  }
  return handler;
}

/**
 * The handler, as the body (the pieces of one that follows, if `pieces` is true) and the request's head, if any, to the
 * reply (or its pieces) and what stands before it.
 */
function adapter(handler, meta) {
  const given = (body) => (Buffer.isBuffer(body) ? body : stream.whole(body));
  if (meta.interface === 'http') {
    // Who does not say that it takes streams finds the body where it always is.
    const bodyOf = handler.streams === true ? (body) => body : given;
    return async (body, head, context) =>
      http.answer(await handler(new http.Request(head, await bodyOf(body)), context));
  }
  if (meta.payload === 'bytes') {
    return async (body, _head, context) => {
      const reply = await handler(await given(body), context);
      if (stream.isPieces(reply)) {
        return [reply, ofEvent('application/octet-stream')];
      }
      if (!(reply instanceof Uint8Array)) {
        throw new TypeError('payload is bytes, so the handler must return a Buffer');
      }
      return [Buffer.from(reply), {}];
    };
  }
  return async (body, _head, context) => {
    const bytes = await given(body);
    const event = bytes.length > 0 ? JSON.parse(bytes) : null;
    const reply = await handler(event, context);
    if (stream.isPieces(reply)) {
      return [reply, ofEvent('text/plain; charset=utf-8')];
    }
    return [Buffer.from(JSON.stringify(reply === undefined ? null : reply)), {}];
  };
}

/** What stands before the pieces of an event handler's reply. */
function ofEvent(kind) {
  return { status: 200, headers: [['content-type', kind]] };
}

function invoke(meta, data) {
  const { call } = meta;
  const request = { call, isOpen: true, context: new Context(instance, meta) };
  const flow = new stream.Flow(send, meta);
  flows.set(call, flow);
  calls.run(request, async () => {
    try {
      const body = meta.body_follows ? flow.body() : data;
      const [reply, said] = await run(body, meta.http, request.context);
      const isWhole = Buffer.isBuffer(reply);
      const [last, head] = isWhole ? [reply, said] : await flow.deliver(reply, said);
      request.isOpen = false;
      flows.delete(call);
      connection.send(wire.RESULT, wire.metaOf(call, head), last);
    } catch (error) {
      request.isOpen = false;
      flows.delete(call);
      fail(error, call);
    }
  });
}

/** Tells the worker what the handler threw; the stack goes to the log. */
function fail(error, call) {
  const isError = error instanceof Error;
  // That its caller has gone is nothing that went wrong here.
  if (!(error instanceof stream.Gone)) {
    console.error(isError ? error.stack : error);
  }
  const said = {
    kind: String(isError ? error.name : typeof error).slice(0, KIND_CHARS_MAX),
    message: String(isError ? error.message : error).slice(0, MESSAGE_CHARS_MAX),
  };
  connection.send(wire.ERROR, wire.metaOf(call, said));
}

// A promise that nobody waits for has failed: that is the handler's end, as it is Node's own default.
process.on('uncaughtException', (error) => {
  console.error(error);
  process.exit(1);
});

if (process.env.WARMPATH_LOAD) {
  const meta = JSON.parse(process.env.WARMPATH_LOAD);
  delete process.env.WARMPATH_LOAD;
  load(meta);
} else {
  connection.send(wire.READY);
}
