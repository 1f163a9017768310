// Large answers over real sockets: they come in parts, and the connection may break between any two.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { connect } from "livetopic";
import { WebSocket } from "ws";
import { codeOf, until as patiently } from "./fakes.mjs";
import { LiveServer } from "./server.mjs";

const limit = { timeout: 20_000 };
const KEPT = 200; // messages that the server keeps of each topic
const open = new Set();

afterEach(async () => {
  for (const closable of open) await closable.close();
  open.clear();
});

async function serve(part) {
  const server = await LiveServer.start();
  server.part = part;
  open.add(server);
  return server;
}

function dial(server) {
  const live = connect(server.url, { WebSocket, backoff: { min: 1, max: 2 } });
  open.add(live);
  const errors = [];
  live.on("error", (err) => errors.push(err));
  return { live, errors };
}

/** Subscribes, and notes what comes: data, or "gap". */
function follow(live, topic, options) {
  const told = [];
  const marked = [];
  const hear = (data, { recovered }) => {
    told.push(data);
    if (recovered) marked.push(data);
  };
  const { ready } = live.subscribe(topic, hear, { ...options, onGap: () => told.push("gap") });
  return { told, marked, ready };
}

const next = (live, name) => new Promise((resolve) => {
  const off = live.on(name, (event) => resolve(event, off()));
});

const until = (condition) => patiently(condition, setImmediate);

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

/** Publishes the numbers while the client is away: its connection breaks first. */
async function missed(server, live, topic, ...range) {
  const up = next(live, "open");
  server.cut();
  for (const n of numbers(...range)) server.publish(topic, n);
  await up;
}

test("large answers of many alphabets arrive, and others between their pieces", limit, async () => {
  const server = await serve(500);
  const { live, errors } = dial(server);
  const ticks = follow(live, "ticks");
  await ticks.ready;
  const large = Array.from({ length: 500 }, (_, n) => ({ n, text: "aé€😀\"\\\n" }));
  const answer = live.request("echo", large);
  await until(() => server.newest.frames.length === 2); // the first piece is on its way
  server.publish("ticks", "between");
  let answered = false;
  answer.then(() => (answered = true));
  await until(() => ticks.told.length === 1);
  assert.equal(answered, false, "the tick did not wait for the answer");
  assert.deepEqual(await answer, large);
  assert.deepEqual(await Promise.all([live.request("echo", large), live.request("echo", 1), live.request("echo", "é".repeat(501))]), [
    large,
    1,
    "é".repeat(501),
  ]);
  assert.deepEqual(errors, []);
});

test("a long history arrives complete", limit, async () => {
  const server = await serve(7);
  const { live } = dial(server);
  for (const n of numbers(1, 100)) server.publish("a", n);
  const past = await live.history("a", 90);
  assert.deepEqual(past, numbers(11, 100).map((data) => ({ data, at: `e.${data}` })));
  assert.deepEqual(await live.history("a", 7), past.slice(-7));
});

test("a connection that breaks between pieces: disconnected, exactly once, and the next answer is complete", limit, async () => {
  const server = await serve(10);
  const { live, errors } = dial(server);
  for (const n of numbers(1, KEPT)) server.publish("a", n);
  await live.request("echo", 0);
  for (let round = 0; round < 20; round++) {
    const codes = Promise.all([codeOf(live.request("echo", "x".repeat(1000))), codeOf(live.history("a", KEPT))]);
    await until(() => server.newest.frames.length >= 2);
    for (let i = 0; i < round % 5; i++) await new Promise(setImmediate);
    const up = next(live, "open");
    server.cut();
    assert.deepEqual(await codes, ["disconnected", "disconnected"]);
    await up;
    assert.equal(await live.request("echo", `${round} `.repeat(50)), `${round} `.repeat(50));
  }
  assert.deepEqual(errors, []);
});

test("what was missed arrives once and in order, marked, however little a frame holds, and what is new after it", limit, async () => {
  const server = await serve(3);
  const { live, errors } = dial(server);
  const { told, marked, ready } = follow(live, "a");
  const other = follow(live, "b");
  await ready;
  server.publish("a", 1);
  await until(() => told.length === 1);
  await missed(server, live, "a", 2, 150);
  await until(() => told.length >= 4);
  server.publish("b", "between");
  await until(() => other.told.length === 1);
  assert.ok(told.length < 150, "the other topic did not wait for it");
  await until(() => told.length === 150);
  await live.request("echo"); // by now the server has nothing more to recover
  server.publish("a", 151);
  await until(() => told.length === 151);
  assert.deepEqual(told, numbers(1, 151));
  assert.deepEqual(marked, numbers(2, 150));
  assert.deepEqual(errors, []);
});

test("connections that break in the middle of what was missed", limit, async () => {
  const server = await serve(2);
  const { live, errors } = dial(server);
  const { told, marked, ready } = follow(live, "a");
  await ready;
  let n = 0;
  let inTheMiddle = 0;
  for (let round = 0; round < 50; round++) {
    await missed(server, live, "a", n + 1, n + 20);
    n += 20;
    const before = told.length;
    await until(() => told.length > before + (round % 7) || told.length === n);
    if (told.length < n) inTheMiddle++;
    if (round % 5 === 0) await until(() => told.length === n);
  }
  await until(() => told.length >= n);
  assert.deepEqual(told, numbers(1, n));
  assert.ok(inTheMiddle > 10, `${inTheMiddle} of 50 connections broke in the middle`);
  assert.ok(marked.length > n / 2);
  assert.deepEqual(errors, []);
});

test("a history that is trimmed faster than it is read is a gap in its place", limit, async () => {
  const server = await serve(5);
  const { live } = dial(server);
  const { told, ready } = follow(live, "a");
  await ready;
  server.publish("a", 1);
  await until(() => told.length === 1);
  await missed(server, live, "a", 2, 100);
  await until(() => told.length >= 10);
  for (const n of numbers(101, 500)) server.publish("a", n);
  await until(() => told.at(-1) === 500);
  const gap = told.indexOf("gap");
  assert.ok(gap >= 10);
  assert.deepEqual(told, [...numbers(1, gap), "gap", ...numbers(500 - KEPT + 1, 500)]);
});

test("last arrives complete, and resumes where its connection broke", limit, async () => {
  const server = await serve(3);
  for (const n of numbers(1, 120)) server.publish("a", n);
  const { live } = dial(server);
  const { told, marked, ready } = follow(live, "a", { last: 100 });
  await ready;
  await until(() => told.length >= 10);
  server.cut();
  assert.ok(told.length < 100);
  await until(() => told.length >= 100);
  assert.deepEqual(told, numbers(21, 120));
  assert.deepEqual(marked, told);
});
