// null counts as absent, in arguments of the caller and in frames of the server. Only data may be null.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { connect } from "../live.js";
import { codeOf, FakeSocket, setUp, settled, start, startOpen, startV1, withoutUids } from "./fakes.mjs";

const outside = setUp();

const OPTIONS = [
  "plain", "token", "query", "signal", "backoff", "stableAfter", "connectTimeout", "maxBuffered", "maxUnsent", "random",
  "subscribeMessage", "unsubscribeMessage", "publishMessage",
];

/** What a client does with these options, as far as it can be seen. */
async function course(options) {
  const client = start(outside, { ...options });
  await settled();
  client.live.subscribe("a", () => {});
  for (let i = 0; i < 65; i++) await codeOf(Promise.resolve().then(() => client.live.send("b", i))).then((code) => client.heard.push(["code", code]));
  client.socket.accept();
  await client.live.publish("c", 1);
  client.socket.bufferedAmount = 2 ** 20;
  client.heard.push(["code", await codeOf(client.live.publish("c", 1))]);
  outside.clock.advance(4_999);
  client.socket.end();
  outside.clock.advance(client.live.retryIn);
  outside.clock.advance(10_000);
  client.live.close();
  return [client.sockets.map(({ url, protocols, sent }) => [url, protocols, sent]), client.heard];
}

describe("an option that is null", () => {
  for (const name of OPTIONS) {
    test(`${name} is as if it were not there`, async () => {
      const given = name === "random" ? {} : { random: () => 1 };
      const withoutTimes = ([sockets, heard]) => [sockets, heard.map(([, event]) => (name === "random" ? event?.state : event))];
      const absent = withoutTimes(await course({ ...given, [name]: undefined }));
      assert.deepEqual(withoutTimes(await course({ ...given, [name]: null })), absent);
    });
  }

  test("is found in backoff, too", () => {
    for (const [backoff, first] of [[{ min: null, max: null }, 500], [{ min: null, max: 100 }, 100], [{ min: 700, max: null }, 700]]) {
      const client = start(outside, { backoff });
      client.socket.end();
      assert.equal(client.live.retryIn, first);
    }
  });

  test("may be all of them, and the address", (t) => {
    globalThis.location = { href: "https://app.example/rooms" };
    const { WebSocket } = globalThis;
    globalThis.WebSocket = FakeSocket;
    t.after(() => {
      delete globalThis.location;
      globalThis.WebSocket = WebSocket;
    });
    for (const live of [connect(null, null), connect(undefined, { WebSocket: null })]) {
      outside.clients.push(live);
      assert.equal(live.url, "wss://app.example/live");
    }
  });

  test("of a subscription is as if it were not there", () => {
    const client = startV1(outside);
    client.live.subscribe("a", () => {}, null);
    client.live.subscribe("b", () => {}, { since: null, last: null, signal: null, onGap: null });
    client.live.subscribe("c", () => {}, { since: null, last: 5 });
    client.socket.sayFrame({ op: "gap", topic: "b" });
    assert.deepEqual(client.socket.sent.flat(), [
      { op: "subscribe", id: 1, topic: "a" },
      { op: "subscribe", id: 2, topic: "b" },
      { op: "subscribe", id: 3, topic: "c", last: 5 },
    ]);
    assert.deepEqual(client.all("error"), []);
    const plain = startOpen(outside, { plain: true });
    plain.live.subscribe("a", () => {}, { since: null, last: null });
    assert.equal(plain.socket.sent.length, 1);
  });

  for (const [op, ask, sent] of [
    ["publish", (live, options) => live.publish("a", null, options), { data: null }],
    ["request", (live, options) => live.request("a", null, options), { data: null }],
    ["history", (live, options) => live.history("a", null, options), { limit: 100 }],
  ]) {
    test(`of a ${op} is as if it were not there`, async () => {
      for (const options of [null, { timeout: null, signal: null, offline: null, uid: null }]) {
        const client = startV1(outside);
        client.socket.sayFrame({ op: "hello", ping: 0 });
        const code = codeOf(ask(client.live, options));
        assert.deepEqual(withoutUids(client.socket.sent), [{ id: 1, op, topic: "a", ...sent }]);
        outside.clock.advance(9_999);
        await settled();
        outside.clock.advance(1);
        assert.equal(await code, "timeout");
        client.live.close();
        const waiting = start(outside);
        codeOf(ask(waiting.live, options));
        waiting.socket.greet();
        assert.equal(waiting.socket.sent.length, 1);
      }
    });
  }

  test("is left alone in what the caller holds", () => {
    const options = Object.freeze({ token: null, backoff: Object.freeze({ min: null }) });
    start(outside, options);
    const calling = Object.freeze({ timeout: null });
    codeOf(startV1(outside).live.publish("a", 1, calling));
    assert.deepEqual([options.token, calling.timeout], [null, null]);
  });
});

describe("a member that is null in a frame", () => {
  /** Sends a frame with and without its null members, and compares what the page hears. */
  function alike(frame, nulls, prepare = () => {}, look = () => {}) {
    const told = [true, false].map((full) => {
      const client = startV1(outside);
      client.live.subscribe("a", (data, message) => client.heard.push(["a", message]));
      prepare(client);
      client.socket.sayFrame(full ? { ...frame, ...Object.fromEntries(nulls.map((name) => [name, null])) } : frame);
      look(client);
      return client;
    });
    const [one, other] = told;
    const shown = ({ heard }) => heard.map(([name, event]) => [name, event instanceof Error ? [event.code, event.message, event.topic] : event]);
    assert.deepEqual(shown(one), shown(other));
    assert.deepEqual(one.socket.sent, other.socket.sent);
    return one;
  }

  const again = (client) => {
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.greet();
  };

  test("of a publication", () => {
    const client = alike({ topic: "a", data: 1 }, ["op", "at", "recovered", "id"]);
    assert.deepEqual(client.last("message"), { topic: "a", data: 1 });
    assert.equal(alike({ data: 1 }, ["topic"]).last("error").code, "bad_message");
  });

  test("of a publication's data is null", () => {
    const client = startV1(outside);
    const told = [];
    client.live.listen("a", (data) => told.push(data));
    client.socket.sayFrame({ topic: "a", data: null });
    assert.deepEqual(told, [null]);
    assert.deepEqual(client.last("message"), { topic: "a", data: null });
  });

  test("of hello", () => {
    const client = alike({ op: "hello" }, ["ping", "largest", "session", "version"], () => {}, () => outside.clock.advance(600_000));
    assert.equal(client.live.state, "open");
    assert.equal(client.live.send("a", "x".repeat(10_000)), true);
    assert.equal(client.live.session, undefined);
  });

  test("of a reply to a subscribe", () => {
    alike({ op: "reply", id: 1 }, ["at", "messages", "recovered", "more", "text", "data"], () => {}, again);
    alike({ op: "reply", id: 1, at: "e.1" }, ["messages", "recovered"], () => {}, again);
    const client = alike({ op: "reply", id: 1, messages: [{ data: null, at: null }] }, []);
    assert.deepEqual(client.last("message"), { topic: "a", data: null, recovered: true });
  });

  test("of an answer", async () => {
    for (const [ask, members, nulls, value] of [
      [(live) => live.publish("b", null, { uid: "u" }), {}, ["at", "text", "more", "messages"], undefined],
      [(live) => live.request("b"), { data: [1] }, ["text", "more", "at"], [1]],
      [(live) => live.request("b"), { data: null }, ["text"], null],
      [(live) => live.request("b"), {}, ["text", "more"], undefined],
      [(live) => live.history("b"), {}, ["messages", "more"], []],
      [(live) => live.history("b"), { messages: [{ data: 1, at: null }] }, [], [{ data: 1 }]],
    ]) {
      const client = alike({ op: "reply", id: 2, ...members }, nulls, ({ live }) => void ask(live));
      const answer = ask(client.live);
      client.socket.sayFrame({ op: "reply", id: 3, ...members, ...Object.fromEntries(nulls.map((name) => [name, null])) });
      assert.deepEqual(await answer, value);
    }
  });

  test("of a part", async () => {
    const client = startV1(outside);
    const answer = client.live.request("b");
    client.socket.sayFrame({ op: "part", id: 1, text: "[1", more: null });
    client.socket.sayFrame({ op: "part", id: 1, text: null });
    client.socket.sayFrame({ op: "reply", id: 1, text: ",2]", data: null });
    assert.deepEqual(await answer, [1, 2]);
  });

  test("of an error", () => {
    alike({ op: "error", code: "mine", message: "no" }, ["id", "topic"]);
    alike({ op: "error", code: "mine" }, ["id", "message"]);
    alike({ op: "error", id: 1, code: "mine" }, ["topic", "message"]);
    const client = alike({ op: "error", id: 1 }, ["code", "message"]);
    assert.equal(client.last("error").code, "internal");
  });

  test("of a gap, of a drain, of a ping", () => {
    const on = (client) => client.socket.reply("subscribe", "a", { at: "e.1" });
    alike({ op: "gap", topic: "a" }, ["at", "id"], on, again);
    alike({ op: "drain" }, ["within"], on, again);
    alike({ op: "ping" }, ["id", "topic"]);
    alike({ op: "pong" }, ["id", "topic"]);
  });
});
