// The client on the plain wire over real sockets: a server that falls, comes back, and is told everything again.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { afterEach, test } from "node:test";
import { connect, LiveError } from "livetopic";
import { WebSocket, WebSocketServer } from "ws";
import { until } from "./fakes.mjs";
import { freePort } from "./ports.mjs";

const open = new Set();
afterEach(async () => {
  for (const closable of open) await closable.close();
  open.clear();
});

/** A server of topics: what an application's OnMessage does, in a few lines. */
class TopicServer {
  port = 0;
  received = [];
  #server;
  #topics = new Map();

  static async start() {
    const server = new TopicServer();
    await server.start();
    open.add(server);
    return server;
  }

  async start() {
    this.received = [];
    this.#topics = new Map();
    this.port ||= await freePort();
    this.#server = new WebSocketServer({ port: this.port, host: "127.0.0.1" });
    this.#server.on("connection", (socket) => {
      socket.on("message", (frame) => this.#heard(socket, JSON.parse(frame)));
      socket.on("close", () => this.#topics.forEach((sockets) => sockets.delete(socket)));
    });
    await once(this.#server, "listening");
  }

  get url() {
    return `http://127.0.0.1:${this.port}/live`;
  }

  get connections() {
    return this.#server.clients.size;
  }

  subscribers(topic) {
    return this.#topics.get(topic)?.size ?? 0;
  }

  #heard(socket, { topic, data }) {
    this.received.push({ topic, data });
    const sockets = this.#topics.get(data?.topic) ?? new Set();
    if (topic === "subscribe") this.#topics.set(data.topic, sockets.add(socket));
    if (topic === "unsubscribe") sockets.delete(socket);
    if (topic === "publish") this.publish(data.topic, data.data);
  }

  publish(topic, data) {
    for (const socket of this.#topics.get(topic) ?? []) socket.send(JSON.stringify({ topic, data }));
  }

  end(code, reason) {
    for (const socket of this.#server.clients) socket.close(code, reason);
  }

  /** Dies without a close frame. */
  async close() {
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((done) => this.#server.close(done));
  }
}

function dial(url, options) {
  const live = connect(url, { WebSocket, plain: true, backoff: { min: 5, max: 20 }, ...options });
  open.add(live);
  return live;
}

/** The event, or the first one that fits. */
function heard(live, name, fits = () => true) {
  return new Promise((resolve) => {
    const off = live.on(name, (event) => {
      if (!fits(event)) return;
      off();
      resolve(event);
    });
  });
}

const state = (live, wanted) => heard(live, "state", (event) => event.state === wanted);

const limit = { timeout: 20_000 };

test("messages go through the server and come back in order", limit, async () => {
  const server = await TopicServer.start();
  const live = dial(server.url);
  const told = [];
  live.subscribe("n", (n) => told.push(n));
  for (let n = 0; n < 50; n++) live.publish("n", n);
  await heard(live, "open");
  for (let n = 50; n < 500; n++) live.publish("n", n);
  await until(() => told.length === 500);
  assert.deepEqual(told, Array.from({ length: 500 }, (_, n) => n));
});

test("a server that falls and comes back is told every topic again, before what waited", limit, async () => {
  const server = await TopicServer.start();
  const live = dial(server.url);
  const told = [];
  live.subscribe("a", (data) => told.push(data));
  live.subscribe("b", (data) => told.push(data));
  await until(() => server.received.length === 2);

  for (let round = 0; round < 3; round++) {
    const down = state(live, "waiting");
    await server.close();
    assert.equal((await down).code, 1006);
    live.publish("a", `a${round}`);
    live.publish("b", `b${round}`);

    const up = heard(live, "open");
    await server.start();
    await up;
    await until(() => told.length === 2 * (round + 1));
    assert.deepEqual(told.slice(-2), [`a${round}`, `b${round}`]);
    assert.deepEqual(server.received.map((m) => m.topic), ["subscribe", "subscribe", "publish", "publish"]);
    assert.equal(server.connections, 1);
    assert.equal(server.subscribers("a"), 1);
  }
});

test("a server that is not there yet is waited for", limit, async () => {
  const server = await TopicServer.start();
  await server.close();
  const live = dial(server.url);
  await heard(live, "state", (event) => event.attempt >= 3);
  const up = heard(live, "open");
  await server.start();
  await up;
  assert.equal(server.connections, 1);
});

test("a server that accepts and says nothing is given up", limit, async () => {
  const silent = createServer(() => {}).listen(0, "127.0.0.1");
  await once(silent, "listening");
  const sockets = new Set();
  silent.on("connection", (socket) => {
    sockets.add(socket.resume());
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  open.add({
    close() {
      for (const socket of sockets) socket.destroy();
      silent.close();
    },
  });

  const live = dial(`ws://127.0.0.1:${silent.address().port}/`, { connectTimeout: 50 });
  const event = await state(live, "waiting");
  assert.deepEqual([event.code, event.reason], [1006, "connect timeout"]);
  await heard(live, "state", (later) => later.attempt >= 3);
  await until(() => sockets.size <= 1);
});

test("the server's codes arrive: a window is kept, a final word is final", limit, async () => {
  const server = await TopicServer.start();
  const live = dial(server.url, { random: () => 0.5 });
  await heard(live, "open");

  const waiting = state(live, "waiting");
  const again = heard(live, "open");
  server.end(1012, "restart; return within 60 ms");
  assert.equal((await waiting).retryIn, 30);
  await again;

  const closed = state(live, "closed");
  server.end(4001, "signed out");
  const event = await closed;
  assert.deepEqual([event.code, event.reason], [4001, "signed out"]);
  assert.throws(() => live.send("chat", 1), LiveError);
});

test("close() reaches the server as 1000, after what was sent", limit, async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  open.add(server);
  await once(server, "listening");
  const live = dial(`ws://127.0.0.1:${server.address().port}`);
  const [socket] = await once(server, "connection");
  const frames = [];
  socket.on("message", (frame) => frames.push(JSON.parse(frame)));
  await heard(live, "open");
  live.send("chat", "last words");
  live.close();
  const [code] = await once(socket, "close");
  assert.equal(code, 1000);
  assert.deepEqual(frames, [{ topic: "chat", data: "last words" }]);
});

test("close() while connecting leaves no error behind", limit, async () => {
  const server = await TopicServer.start();
  const live = dial(server.url);
  const events = [];
  for (const name of ["state", "open", "close", "error"]) live.on(name, (event) => events.push(event));
  live.close();
  assert.deepEqual(events, [{ state: "closed", attempt: 0, unsent: 0 }]);

  const other = dial(server.url); // by the time it is served, the first has come to nothing
  await heard(other, "open");
  await until(() => server.connections === 1);
  assert.equal(events.length, 1);
});
