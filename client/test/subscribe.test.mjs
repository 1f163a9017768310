// Subscriptions in live.v1: what the server is asked, and what callers learn.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { LiveError } from "../live.js";
import { codeOf, collectGarbage, reconnect, setUp, settled, start, startV1 } from "./fakes.mjs";

const outside = setUp();

/** What was sent, without the ids that the client chooses. */
const asked = (client) => client.socket.heard().map((frame) => delete frame.id && frame);

const ops = (client) => asked(client).map(({ op, topic }) => `${op} ${topic}`);

/** Subscribes, and notes what comes. */
function follow(client, topic, options) {
  const told = [];
  const stop = client.live.subscribe(topic, (data, message) => told.push(message), options);
  return { told, stop, data: () => told.map((message) => message.data) };
}

describe("the server is asked", () => {
  test("in live.v1, which the client offers", () => {
    const client = start(outside);
    assert.deepEqual(client.socket.protocols, ["live.v1"]);
    follow(client, "news");
    client.socket.greet();
    assert.equal(client.live.session, "s1");
    assert.deepEqual(client.socket.sent, [[{ op: "subscribe", id: 1, topic: "news" }]]);
  });

  test("once, however many callers there are, and told once when the last has gone", () => {
    const client = startV1(outside);
    const all = [1, 2, 3].map(() => follow(client, "news"));
    assert.deepEqual(ops(client), ["subscribe news"]);
    client.socket.say("news", "early");
    all[0].stop();
    all[0].stop();
    all[1].stop();
    assert.deepEqual(ops(client), []);
    all[2].stop();
    all[2].stop();
    assert.deepEqual(ops(client), ["unsubscribe news"]);
    client.socket.say("news", "late");
    assert.deepEqual(all.map(({ data }) => data()), [["early"], ["early"], ["early"]]);
  });

  test("for all topics in one frame at each connection, before what waited", () => {
    const client = start(outside);
    for (const topic of ["a", "b", "a", "c"]) follow(client, topic);
    client.live.send("chat", 1);
    client.socket.greet();
    assert.deepEqual(client.socket.sent.map((frame) => (Array.isArray(frame) ? frame.map((op) => op.topic) : frame.topic)), [
      ["a", "b", "c"],
      "chat",
    ]);
    reconnect(outside, client);
    assert.equal(client.socket.sent.length, 1);
    assert.deepEqual(ops(client), ["subscribe a", "subscribe b", "subscribe c"]);
  });

  test("in frames of at most 1000", () => {
    const client = start(outside);
    for (let i = 0; i < 2500; i++) follow(client, `t${i}`);
    client.socket.greet();
    assert.deepEqual(client.socket.sent.map((frame) => frame.length), [1000, 1000, 500]);
    const ids = new Set(client.socket.heard().map(({ id }) => id));
    assert.equal(ids.size, 2500);
  });

  test("nothing more for who came and went while there was no connection", () => {
    const client = start(outside);
    follow(client, "a").stop();
    follow(client, "b");
    client.socket.greet();
    assert.deepEqual(ops(client), ["subscribe b"]);
  });

  test("for the newest messages by the first subscription alone", () => {
    const client = startV1(outside);
    follow(client, "a", { last: 5 });
    follow(client, "a", { last: 9 });
    assert.deepEqual(asked(client), [{ op: "subscribe", topic: "a", last: 5 }]);

    reconnect(outside, client); // before any answer: it is still the first
    assert.deepEqual(asked(client), [{ op: "subscribe", topic: "a", last: 5 }]);

    reconnect(outside, client);
    client.socket.reply("subscribe", "a", { messages: [] });
    reconnect(outside, client);
    assert.deepEqual(asked(client), [{ op: "subscribe", topic: "a" }]);
  });
});

describe("ready", () => {
  test("is kept when the server has agreed, also for a caller that comes later", async () => {
    const client = startV1(outside);
    const { stop } = follow(client, "a");
    let ready = false;
    stop.ready.then(() => (ready = true));
    await settled();
    assert.equal(ready, false);
    client.socket.reply("subscribe", "a");
    await settled();
    assert.equal(ready, true);
    await follow(client, "a").stop.ready;
  });

  test("waits for the connection, and for the next one", async () => {
    const client = start(outside);
    const { stop } = follow(client, "a");
    client.socket.greet();
    reconnect(outside, client);
    client.socket.reply("subscribe", "a");
    await stop.ready;
    assert.deepEqual(client.all("gap"), []);
  });

  test("fails when the subscription is ended before", async () => {
    const client = startV1(outside);
    const { stop } = follow(client, "a");
    stop();
    assert.equal(await codeOf(stop.ready), "aborted");
    client.socket.sayFrame({ op: "reply", id: 1 });
    const other = follow(client, "b");
    client.live.close();
    assert.equal(await codeOf(other.stop.ready), "closed");
  });

  test("on the plain wire is kept when the application was told", async () => {
    const client = start(outside);
    const { stop } = follow(client, "a");
    client.socket.accept();
    await stop.ready;
  });
});

describe("a refusal", () => {
  test("is told to the caller and as an error event, with its topic", async () => {
    const client = startV1(outside);
    const { stop } = follow(client, "secret");
    client.socket.refuse("subscribe", "secret", "forbidden");
    const err = client.last("error");
    assert.ok(err instanceof LiveError);
    assert.deepEqual([err.code, err.topic, err.message], ["forbidden", "secret", "live: not allowed"]);
    await assert.rejects(stop.ready, (reason) => reason === err);
  });

  test("hits that topic alone", () => {
    const client = startV1(outside);
    follow(client, "secret");
    const { data } = follow(client, "news");
    client.socket.refuse("subscribe", "secret", "forbidden");
    client.socket.reply("subscribe", "news");
    client.socket.say("news", 1);
    assert.deepEqual(data(), [1]);
    assert.equal(client.live.state, "open");
  });

  test("is not tried again at each reconnect, nor told to be over", () => {
    const client = startV1(outside);
    const { stop } = follow(client, "secret");
    follow(client, "news");
    client.socket.refuse("subscribe", "secret", "forbidden");
    reconnect(outside, client);
    assert.deepEqual(ops(client), ["subscribe news"]);
    stop();
    outside.clock.advance(20_000);
    assert.deepEqual(ops(client), []);
  });

  test("ends when someone subscribes anew, which every listener then hears", async () => {
    const client = startV1(outside);
    const first = follow(client, "secret");
    client.socket.refuse("subscribe", "secret", "forbidden");
    const second = follow(client, "secret");
    assert.deepEqual(ops(client), ["subscribe secret", "subscribe secret"]);
    client.socket.sayFrame({ op: "reply", id: 2 });
    await second.stop.ready;
    assert.equal(await codeOf(first.stop.ready), "forbidden");
    client.socket.say("secret", 1);
    assert.deepEqual([first.data(), second.data()], [[1], [1]]);

    first.stop();
    assert.deepEqual(ops(client), []);
    second.stop();
    assert.deepEqual(ops(client), ["unsubscribe secret"]);
  });

  test("of a topic that nobody wants any more is nobody's", () => {
    const client = startV1(outside);
    follow(client, "secret").stop();
    client.socket.refuse("subscribe", "secret", "forbidden");
    assert.deepEqual(client.heard, []);
  });

  test("with unavailable is none: the server is asked again, until it agrees", async () => {
    const client = startV1(outside);
    const { stop } = follow(client, "a", { last: 3 });
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(asked(client), [{ op: "subscribe", topic: "a", last: 3 }]);
      client.socket.sayFrame({ op: "error", id: i + 1, code: "unavailable", message: "later" });
      assert.equal(client.last("error").topic, "a");
      outside.clock.advance(4_999);
      assert.deepEqual(asked(client), []);
      outside.clock.advance(1);
    }
    client.socket.reply("subscribe", "a");
    await stop.ready;
    outside.clock.advance(5_000);
    assert.deepEqual(ops(client), ["subscribe a"]);
  });
});

describe("a subscription ends", () => {
  test("and the client keeps nothing of it", async () => {
    const client = startV1(outside);
    const subscribed = (topic, ended) => {
      const { stop } = follow(client, topic);
      client.socket.reply("subscribe", topic);
      if (ended) stop();
      return new WeakRef(stop.ready);
    };
    const [lasts, over] = [subscribed("a", false), subscribed("b", true)];
    await collectGarbage();
    assert.ok(lasts.deref());
    assert.equal(over.deref(), undefined);
  });

  test("with its signal", async () => {
    const client = startV1(outside);
    const abort = new AbortController();
    const { data } = follow(client, "a", { signal: abort.signal });
    client.socket.reply("subscribe", "a");
    client.socket.say("a", 1);
    abort.abort();
    client.socket.say("a", 2);
    assert.deepEqual(data(), [1]);
    assert.deepEqual(ops(client), ["subscribe a", "unsubscribe a"]);
  });

  test("before it began, if the signal has aborted already", async () => {
    const client = startV1(outside);
    const { stop, data } = follow(client, "a", { signal: AbortSignal.abort() });
    client.socket.say("a", 1);
    stop();
    assert.deepEqual([data(), ops(client)], [[], []]);
    assert.equal(await codeOf(stop.ready), "aborted");
  });

  test("at the end of a using block", () => {
    const client = startV1(outside);
    const { stop } = follow(client, "a");
    stop[Symbol.dispose ?? "undefined"]();
    assert.deepEqual(ops(client), ["subscribe a", "unsubscribe a"]);
  });

  test("and leaves nothing at the signal", () => {
    const client = startV1(outside);
    const { signal } = new AbortController();
    for (let i = 0; i < 20; i++) follow(client, "a", { signal }).stop();
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });
});

describe("listen", () => {
  test("hears what the application sends without asking for it", () => {
    const client = startV1(outside);
    const told = [];
    const stop = client.live.listen("inbox", (data, message) => told.push([data, message.at]));
    client.socket.say("inbox", 1);
    client.socket.say("inbox", 2, "e.7");
    stop();
    client.socket.say("inbox", 3);
    reconnect(outside, client);
    assert.deepEqual(told, [[1, undefined], [2, "e.7"]]);
    assert.deepEqual(client.socket.heard(), []);
  });

  test("outlives a subscription to the same topic", () => {
    const client = startV1(outside);
    const told = [];
    client.live.listen("a", (data) => told.push(data));
    follow(client, "a").stop();
    client.socket.say("a", 1);
    assert.deepEqual(told, [1]);
    assert.deepEqual(ops(client), ["subscribe a", "unsubscribe a"]);
  });

  test("throws after the end", () => {
    const client = startV1(outside);
    client.live.close();
    assert.throws(() => client.live.listen("a", () => {}), { code: "closed" });
  });
});
