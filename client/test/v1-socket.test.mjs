// The client in live.v1 over real sockets, with connections that break at any moment.
import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, test } from "node:test";
import { Worker } from "node:worker_threads";
import { connect } from "livetopic";
import { WebSocket } from "ws";
import { codeOf, until } from "./fakes.mjs";
import { LiveServer } from "./server.mjs";

const limit = { timeout: 20_000 };
const open = new Set();

afterEach(async () => {
  for (const closable of open) await closable.close();
  open.clear();
});

async function serve() {
  const server = await LiveServer.start();
  open.add(server);
  return server;
}

function dial(server, options) {
  const live = connect(server.url, { WebSocket, backoff: { min: 1, max: 5 }, ...options });
  open.add(live);
  const gaps = [];
  const errors = [];
  live.on("gap", (gap) => gaps.push(gap));
  live.on("error", (err) => errors.push(err));
  return { live, gaps, errors };
}

/** The next event of that name. */
const next = (live, name) => new Promise((resolve) => {
  const off = live.on(name, (event) => resolve(event, off()));
});

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

test("every operation has its answer", limit, async () => {
  const server = await serve();
  const { live } = dial(server);
  const told = [];
  const stop = live.subscribe("a", (data, message) => told.push(message));
  await stop.ready;
  assert.equal(await live.publish("a", { n: 1 }), "e.1");
  await until(() => told.length === 1);
  assert.deepEqual(told, [{ topic: "a", data: { n: 1 }, at: "e.1" }]);
  assert.deepEqual(await live.request("echo", [1, null]), [1, null]);
  assert.deepEqual(await live.history("a"), [{ data: { n: 1 }, at: "e.1" }]);
  stop();
  await live.publish("a", 2);
  assert.equal(told.length, 1);
  assert.equal(live.session, "s1");
});

test("a thousand reconnects: each publication once and in order, one frame and one socket each, no listener left over", limit, async () => {
  const server = await serve();
  const { live, gaps, errors } = dial(server, { backoff: { min: 0, max: 0 } });
  const told = { a: [], b: [] };
  const replays = [];
  for (const topic of ["a", "b"]) {
    const { ready } = live.subscribe(topic, (n, { recovered }) => told[topic].push(n) && recovered && replays.push(n));
    await ready;
  }
  for (let round = 1; round <= 1000; round++) {
    const up = next(live, "open");
    server.publish("a", 3 * round - 2);
    if (round % 3 === 0) await until(() => told.a.length === 3 * round - 2); // else it may be lost on the way
    server.cut();
    server.publish("a", 3 * round - 1);
    server.publish("b", round);
    await up;
    assert.ok(server.alive <= 1, `${server.alive} sockets`);
    server.publish("a", 3 * round);
  }
  await until(() => told.a.length >= 3000 && told.b.length >= 1000);
  assert.deepEqual(told.a, numbers(1, 3000));
  assert.deepEqual(told.b, numbers(1, 1000));
  assert.ok(replays.length > 1000);
  assert.deepEqual([gaps, errors], [[], []]);

  assert.equal(server.connections.length, 1001);
  const asked = server.connections.slice(1).filter(({ frames }) => frames.length); // some were cut before they were heard
  assert.ok(asked.length >= 333, `${asked.length}`); // every third was waited for
  for (const { frames } of asked) {
    assert.deepEqual(frames.map((frame) => frame.map(({ op, topic }) => `${op} ${topic}`)), [["subscribe a", "subscribe b"]]);
  }
});

test("connections that break at any moment, while many publish", limit, async () => {
  const server = await serve();
  const { live, gaps } = dial(server);
  const told = [];
  await live.subscribe("a", (n) => told.push(n)).ready;
  let n = 0;
  for (let round = 0; round < 100; round++) {
    for (let i = 0; i < round % 7; i++) server.publish("a", ++n);
    if (round % 2) await new Promise((resolve) => setTimeout(resolve, round % 5));
    server.cut();
    if (round % 20 === 0) await until(() => told.length >= n); // before the history has lost any
  }
  await until(() => told.length >= n);
  assert.deepEqual(told, numbers(1, n));
  assert.deepEqual(gaps, []);
});

test("a history that began anew is a gap, and what follows is heard", limit, async () => {
  const server = await serve();
  const { live, gaps } = dial(server);
  const told = [];
  await live.subscribe("a", (data) => told.push(data)).ready;
  server.publish("a", 1);
  await until(() => told.length === 1);
  server.forget();
  const up = next(live, "gap");
  server.cut();
  assert.deepEqual(await up, { topic: "a", reason: "not_recovered" });
  server.publish("a", 2);
  await until(() => told.length === 2);
  assert.deepEqual([told, gaps.length], [[1, 2], 1]);
});

test("a request whose connection breaks is disconnected, exactly once, and not repeated; a publication is", limit, async () => {
  const server = await serve();
  const { live } = dial(server);
  let asked = 0;
  server.onRequest = () => {
    asked++;
    server.cut();
  };
  const codes = await Promise.all([codeOf(live.request("a", 1)), codeOf(live.publish("b", 1))]);
  assert.deepEqual(codes, ["disconnected", "none"]);
  server.onRequest = () => "now";
  assert.equal(await live.request("a", 2), "now");
  assert.equal(asked, 1);
});

test("a refused topic is not asked for again at each reconnect", limit, async () => {
  const server = await serve();
  server.refuses = (topic) => topic === "secret" && "forbidden";
  const { live, errors } = dial(server);
  assert.equal(await codeOf(live.subscribe("secret", () => {}).ready), "forbidden");
  await live.subscribe("news", () => {}).ready;
  for (let round = 0; round < 3; round++) {
    const up = next(live, "open");
    server.cut();
    await up;
    await live.request("echo");
    assert.deepEqual(server.newest.frames[0].map(({ topic }) => topic), ["news"]);
  }
  assert.deepEqual(errors.map(({ code, topic }) => [code, topic]), [["forbidden", "secret"]]);
});

test("an expired sign-in fetches a new token and is back at once", limit, async () => {
  const server = await serve();
  let n = 0;
  const { live } = dial(server, { token: async () => `token ${++n}`, backoff: { min: 60_000, max: 60_000 } });
  server.authorize = ({ headers }) => {
    const [version, token] = headers["sec-websocket-protocol"].split(/, */);
    return version === "live.v1" && Buffer.from(token.slice("live.token.".length), "base64url").toString() === `token ${n}`;
  };
  await live.subscribe("a", () => {}).ready;
  const up = next(live, "open");
  server.end(4200, "expired");
  await up;
  assert.equal(n, 2);
  assert.equal(live.state, "open");
});

test("a refused handshake is backed off from, with a new token each time", limit, async () => {
  const server = await serve();
  const tokens = [];
  server.authorize = () => tokens.length === 3;
  const { live } = dial(server, { token: () => `t${tokens.push(0)}` });
  await next(live, "open");
  assert.equal(tokens.length, 3);
});

test("two quick wakes make one socket", limit, async () => {
  const server = await serve();
  const { live } = dial(server, { token: async () => "t", backoff: { min: 60_000, max: 60_000 }, random: () => 1 });
  await next(live, "open");
  const down = next(live, "close");
  server.cut();
  await down;
  const up = next(live, "open");
  live.reconnect();
  live.reconnect();
  await up;
  await live.request("echo");
  assert.equal(server.connections.length, 2);
  assert.equal(server.alive, 1);
});

test("what waited is answered, after the subscriptions", limit, async () => {
  const server = await serve();
  const { live } = dial(server);
  const told = [];
  live.subscribe("a", (data) => told.push(data));
  assert.deepEqual(await Promise.all([live.publish("a", 1), live.publish("a", 2)]), ["e.1", "e.2"]);
  await until(() => told.length === 2);
  assert.deepEqual(told, [1, 2]);
});

test("a client works in a worker, where there is neither window nor document", limit, async () => {
  const server = await serve();
  const program = `
    import { parentPort } from "node:worker_threads";
    import { connect } from ${JSON.stringify(import.meta.resolve("livetopic"))};
    import { WebSocket } from ${JSON.stringify(import.meta.resolve("ws"))};
    const live = connect(${JSON.stringify(server.url)}, { WebSocket });
    parentPort.postMessage(await live.request("echo", "from a worker"));
    live.close();
  `;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`));
  const [answer] = await once(worker, "message");
  assert.equal(answer, "from a worker");
  await once(worker, "exit");
});

