// Over real sockets: a slow connection is not dead, and a dead one is found soon.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect as dialTCP, createServer } from "node:net";
import { describe, test } from "node:test";
import { connect } from "livetopic";
import { WebSocket } from "ws";
import { codeOf, until } from "./fakes.mjs";
import { LiveServer } from "./server.mjs";

const limit = { timeout: 30_000 };
const MB = 2 ** 20;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A proxy between client and server that carries a limited number of bytes per second each way. With 0 it carries nothing. */
class SlowProxy {
  up = Infinity;
  down = Infinity;
  #sockets = new Set();

  static async to(port, t) {
    const proxy = new SlowProxy();
    proxy.server = createServer((client) => proxy.#join(client, dialTCP(port, "127.0.0.1"))).listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    t.after(() => proxy.close());
    return proxy;
  }

  get url() {
    return `ws://127.0.0.1:${this.server.address().port}/live`;
  }

  #join(client, server) {
    for (const socket of [client, server]) this.#sockets.add(socket.on("error", () => {}));
    this.#carry(client, server, () => this.up);
    this.#carry(server, client, () => this.down);
  }

  async #carry(from, to, rate) {
    try {
      for await (const bytes of from) {
        for (let i = 0; i < bytes.length; i += 16_384) {
          while (!rate()) await sleep(10);
          const piece = bytes.subarray(i, i + 16_384);
          to.write(piece);
          if (rate() < Infinity) await sleep((piece.length / rate()) * 1_000);
        }
      }
    } catch {
      // It ended.
    }
    to.destroy();
  }

  close() {
    for (const socket of this.#sockets) socket.destroy();
    this.server.close();
  }
}

async function serve(t, largest = 16 * MB) {
  const server = new LiveServer();
  server.largest = largest;
  await server.start();
  t.after(() => server.close());
  return server;
}

/** A client behind a slow proxy. The client calls reconnect() again and again, so that it pings. */
async function impatient(server, t) {
  const proxy = await SlowProxy.to(server.port, t);
  const live = connect(proxy.url, { WebSocket });
  t.after(() => live.close());
  const states = [];
  live.on("state", ({ state }) => states.push(state));
  await live.request("echo", "warm");
  const pinging = setInterval(() => live.state === "open" && live.reconnect(), 250);
  t.after(() => clearInterval(pinging));
  return { proxy, live, states };
}

describe("slow is not dead:", { concurrency: true }, () => {
  test("an application that takes 5 s for an answer", limit, async (t) => {
    const server = await serve(t);
    server.onRequest = (topic, data) => (topic === "slow" ? sleep(5_000).then(() => data) : data);
    const { live, states } = await impatient(server, t);
    assert.equal(await live.request("slow", "worth it"), "worth it");
    assert.deepEqual([states, server.connections.length], [["open"], 1]);
    assert.ok(server.newest.frames.some(({ op }) => op === "ping"), "it was asked for a sign of life");
  });

  for (const [how, upload] of [
    ["a request", (live, data) => live.request("echo", data, { timeout: 20_000 }).then(({ length }) => length)],
    ["a request that gives up", (live, data) => codeOf(live.request("echo", data, { timeout: 1_000 })).then(() => data.length)],
    ["a message", async (live, data) => live.send("file", data) && data.length],
  ]) {
    test(`4 MB on their way up as ${how}`, limit, async (t) => {
      const server = await serve(t);
      const { proxy, live, states } = await impatient(server, t);
      proxy.up = 0.8 * MB; // the system takes all of it at once, and the ping waits behind it for 5 s
      const data = "x".repeat(4 * MB);
      assert.equal(await upload(live, data), data.length);
      const heard = () => server.newest.frames.some((frame) => frame.data?.length === data.length);
      await until(heard);
      assert.deepEqual([states, server.connections.length], [["open"], 1]);
      assert.equal(await live.request("echo", "still here"), "still here");
    });
  }

  test("3 MB on their way down in one message", limit, async (t) => {
    const server = await serve(t);
    server.onRequest = (topic, data) => (topic === "large" ? "x".repeat(3 * MB) : data);
    const { proxy, live, states } = await impatient(server, t);
    proxy.down = 0.6 * MB;
    assert.equal((await live.request("large")).length, 3 * MB);
    assert.deepEqual([states, server.connections.length], [["open"], 1]);
  });

  test("and a dead connection with nothing due is replaced about 2 s after waking", limit, async (t) => {
    const server = await serve(t);
    const { proxy, live, states } = await impatient(server, t);
    await sleep(500);
    proxy.up = proxy.down = 0;
    const died = Date.now();
    await until(() => states.length > 1);
    const ms = Date.now() - died;
    assert.ok(ms > 1_000, `${ms} ms`); // 2 s of silence, 2 s for the pong; by the server's pings it would be 35 s
    proxy.up = proxy.down = Infinity;
    assert.equal(await live.request("echo", "back"), "back");
  });
});

test("a server that takes 2,048 bytes keeps a client of 60 topics, who misses nothing", limit, async (t) => {
  const server = await serve(t, 2_048);
  const live = connect(server.url, { WebSocket, backoff: { min: 1, max: 5 } });
  t.after(() => live.close());
  const ends = [];
  live.on("close", ({ code }) => ends.push(code));
  const topics = Array.from({ length: 60 }, (_, n) => `räume:zimmer-${n}-${"x".repeat(20)}`);
  const told = [];
  await Promise.all(topics.map((topic) => live.subscribe(topic, (data) => told.push(data)).ready));
  for (let round = 0; round < 3; round++) {
    const up = new Promise((resolve) => live.on("open", resolve));
    server.cut();
    for (const topic of topics) server.publish(topic, `${round} ${topic}`);
    await up;
    await until(() => told.length >= (round + 1) * topics.length);
  }
  assert.deepEqual(told.sort(), [0, 1, 2].flatMap((round) => topics.map((topic) => `${round} ${topic}`)).sort());
  assert.deepEqual(ends, [1006, 1006, 1006]);
  assert.equal(await codeOf(live.publish("a", "☃".repeat(1_000))), "too_big");
  assert.equal(await live.request("echo", "x".repeat(1_900)), "x".repeat(1_900));
  assert.equal(server.alive, 1);
});
