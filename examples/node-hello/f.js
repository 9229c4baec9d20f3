'use strict';
// Counts greetings of a name in the database.

const warmpath = require('warmpath');

exports.f = async (event, context) => {
  const name = event?.name ?? 'world';
  const key = `{greeted}.${name}`;
  const times = Number((await warmpath.db.get(key)) ?? 0) + 1;
  await warmpath.db.put(key, String(times));
  return { greeting: `Hello, ${name}!`, times, by: context.function };
};
