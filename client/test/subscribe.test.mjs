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

test("a subscription whose signal has aborted asks the server for nothing", async () => {
  const client = startV1(outside);
  follow(client, "a");
  client.socket.reply("subscribe", "a", { at: "e.1", state: 1 });
  client.socket.heard();
  follow(client, "a", { info: { typing: true }, onState: () => {}, signal: AbortSignal.abort() });
  assert.deepEqual(client.socket.heard(), []);
  const { stop } = follow(client, "b", { info: 1, signal: AbortSignal.abort() });
  assert.equal(await codeOf(stop.ready), "aborted");
  reconnect(outside, client);
  assert.deepEqual(client.socket.heard().map(({ op, topic, info }) => [op, topic, info]), [["subscribe", "a", undefined]]);
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

  test("after a reconnect is told to onEnd, which is told at first too", () => {
    const client = startV1(outside);
    const ended = [];
    const onEnd = ({ code, topic }) => ended.push([code, topic]);
    follow(client, "a", { onEnd });
    follow(client, "b", { onEnd }).stop();
    client.socket.reply("subscribe", "a");
    reconnect(outside, client);
    client.socket.refuse("subscribe", "a", "unavailable");
    assert.deepEqual(ended, [], "it is asked for again");
    outside.clock.advance(2_000);
    client.socket.refuse("subscribe", "a", "forbidden");
    assert.deepEqual(ended, [["forbidden", "a"]]);
    follow(client, "c", { onEnd });
    client.socket.refuse("subscribe", "c", "forbidden");
    assert.deepEqual(ended.splice(0), [["forbidden", "a"], ["forbidden", "c"]]);
  });

  for (const [how, end] of [["the page", (client) => client.live.close()], ["the server", (client) => client.socket.end(4001, "no more")]]) {
    test(`onEnd is told that ${how} has ended the client`, () => {
      const client = startV1(outside);
      const ended = [];
      follow(client, "a", { onEnd: (err) => ended.push(err) });
      client.socket.reply("subscribe", "a");
      end(client);
      assert.deepEqual(ended.map(({ code }) => code), ["closed"]);
    });
  }

  test("of a topic that nobody wants any more is nobody's", () => {
    const client = startV1(outside);
    follow(client, "secret").stop();
    client.socket.refuse("subscribe", "secret", "forbidden");
    assert.deepEqual(client.heard, []);
  });

  for (const code of ["forbidden", "bad_request", "invalid_topic", "too_many_topics", "no_history", "unknown_op", "mine", "Unavailable"]) {
    test(`with ${code} is final`, async () => {
      const client = startV1(outside);
      const { stop } = follow(client, "a");
      client.socket.refuse("subscribe", "a", code);
      assert.equal(await codeOf(stop.ready), code);
      client.socket.heard();
      outside.clock.advance(30_000);
      reconnect(outside, client);
      assert.deepEqual(asked(client), []);
      assert.equal(client.all("error").length, 1);
    });
  }
});

for (const code of ["unavailable", "internal"]) {
  describe(`a passing failure, as ${code}, is no refusal`, () => {
    /** The server fails the newest question. */
    const fail = (client, topic = "a") => client.socket.refuse("subscribe", topic, code, "later");
    const open = (options) => {
      const client = startV1(outside, options);
      client.socket.sayFrame({ op: "hello", ping: 0 });
      return client;
    };

    test("the server is asked again, later each time up to 20 s, and each failure is an event", async () => {
      const client = open();
      const { stop, data } = follow(client, "a", { last: 3 });
      for (const wait of [1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]) {
        fail(client);
        assert.deepEqual([client.last("error").code, client.last("error").topic], [code, "a"]);
        client.socket.heard();
        outside.clock.advance(wait - 1);
        assert.deepEqual(asked(client), []);
        outside.clock.advance(1);
        assert.deepEqual(client.socket.sent.flat().map(({ topic, last }) => [topic, last]), [["a", 3]]);
      }
      assert.equal(client.all("error").length, 7);
      client.socket.reply("subscribe", "a");
      await stop.ready;
      client.socket.say("a", 1);
      assert.deepEqual(data(), [1]);
      client.socket.heard();
      outside.clock.advance(100_000);
      assert.deepEqual(asked(client), []);
    });

    test("the waits are spread", () => {
      const waits = new Set();
      for (let i = 0; i < 50; i++) {
        const client = open({ random: undefined });
        follow(client, "a");
        fail(client);
        client.socket.heard();
        let ms = 0;
        for (; !client.socket.sent.length; ms += 10) outside.clock.advance(10);
        assert.ok(ms >= 500 && ms <= 1_010, `${ms}`);
        waits.add(ms);
        client.live.close();
      }
      assert.ok(waits.size > 15, `${[...waits]}`);
    });

    test("the next connection asks at once, and the wait before it is forgotten", () => {
      const client = open();
      follow(client, "a");
      follow(client, "b");
      client.socket.reply("subscribe", "b");
      for (let i = 0; i < 5; i++) {
        fail(client);
        outside.clock.advance(20_000);
      }
      fail(client);
      reconnect(outside, client);
      assert.deepEqual(ops(client), ["subscribe a", "subscribe b"]);
      outside.clock.advance(20_000);
      assert.deepEqual(ops(client), []);
    });

    test("a success begins anew", () => {
      const client = open();
      follow(client, "a");
      for (const wait of [1_000, 2_000]) {
        fail(client);
        outside.clock.advance(wait);
      }
      client.socket.reply("subscribe", "a", { at: "e.1" });
      client.socket.end();
      outside.clock.advance(client.live.retryIn);
      client.socket.greet(0);
      fail(client);
      client.socket.heard();
      outside.clock.advance(1_000);
      assert.deepEqual(asked(client), [{ op: "subscribe", topic: "a", since: "e.1" }]);
    });

    test("others of the topic wait with it, and one that comes asks at once", () => {
      const client = open();
      follow(client, "a");
      fail(client);
      follow(client, "a");
      assert.deepEqual(ops(client), ["subscribe a", "subscribe a"]);
      outside.clock.advance(60_000);
      assert.deepEqual(ops(client), []);
    });

    for (const [how, end] of [
      ["its last caller", (client, { stop }) => stop()],
      ["close()", (client) => client.live.close()],
      ["the server", (client) => client.socket.end(4001)],
    ]) {
      test(`it ends with ${how}, and leaves no timer`, async () => {
        const client = open();
        const following = follow(client, "a");
        fail(client);
        client.socket.heard();
        end(client, following);
        assert.notEqual(await codeOf(following.stop.ready), "none");
        outside.clock.advance(60_000);
        assert.deepEqual(asked(client), []);
        assert.equal(outside.clock.timers, client.live.state === "closed" ? 0 : 1);
      });
    }

    test("each topic has its own wait", () => {
      const client = open();
      follow(client, "a");
      for (const wait of [1_000, 2_000, 4_000]) {
        fail(client);
        outside.clock.advance(wait);
      }
      fail(client);
      follow(client, "b");
      fail(client, "b");
      client.socket.heard();
      outside.clock.advance(1_000);
      assert.deepEqual(ops(client), ["subscribe b"]);
    });
  });
}

test("a subscription that was asked for when the connection broke is asked for again, and that is no error", async () => {
  const client = startV1(outside);
  const { stop } = follow(client, "a");
  for (let i = 0; i < 3; i++) reconnect(outside, client);
  assert.deepEqual(client.all("error"), []);
  client.socket.reply("subscribe", "a");
  await stop.ready;
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
    await collectGarbage(() => !over.deref());
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

  for (const [how, end] of [
    ["close()", (client) => client.live.close()],
    ["the server's final word", (client) => client.socket.end(4001, "not allowed")],
  ]) {
    test(`with ${how}, and leaves nothing at the signal`, async () => {
      const client = startV1(outside);
      const abort = new AbortController();
      const { stop } = follow(client, "a", { signal: abort.signal });
      follow(client, "a", { signal: abort.signal });
      follow(client, "refused", { signal: abort.signal });
      client.socket.refuse("subscribe", "refused", "forbidden");
      client.socket.heard();
      end(client);
      assert.equal(getEventListeners(abort.signal, "abort").length, 0);
      assert.equal(await codeOf(stop.ready), "closed");
      abort.abort();
      stop();
      assert.deepEqual(asked(client), []);
    });
  }
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

  test("hears what a subscription that was ended still brings; one that begins then does not", () => {
    const client = startV1(outside);
    const told = [];
    client.live.listen("a", (data) => told.push(data));
    follow(client, "a").stop();
    const widget = follow(client, "a");
    client.socket.say("a", 1, "e.1"); // 2 and 3 are published before the new subscription begins
    client.socket.reply("subscribe", "a", { at: "e.3" });
    client.socket.say("a", 4, "e.4");
    assert.deepEqual([told, widget.data()], [[1, 4], [4]]);
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

  describe("on a topic that the application has subscribed", () => {
    const listening = () => {
      const client = startV1(outside);
      const told = [];
      client.live.listen("a", (data) => told.push(data));
      client.socket.say("a", 1, "e.1");
      return { client, told };
    };

    test("misses nothing while a subscribe is not answered", () => {
      const { client, told } = listening();
      const widget = follow(client, "a");
      client.socket.say("a", 2, "e.2");
      client.socket.reply("subscribe", "a", { at: "e.2" });
      client.socket.say("a", 3, "e.3");
      assert.deepEqual(told, [1, 2, 3]);
      assert.deepEqual(widget.data(), [3], "it begins with the answer");
      assert.equal(client.all("message").length, 3);
    });

    test("hears with the answer what a subscribe asks for", () => {
      for (const options of [{ since: "e.1" }, { last: 5 }]) {
        const { client, told } = listening();
        const widget = follow(client, "a", options);
        client.socket.say("a", 2, "e.2");
        client.socket.reply("subscribe", "a", { at: "e.2", recovered: true, messages: [{ data: 2, at: "e.2" }] });
        client.socket.say("a", 3, "e.3");
        assert.deepEqual([told, widget.data()], [[1, 2, 3], [2, 3]]);
      }
    });

    test("hears nothing twice when a resume fails at first", () => {
      const { client, told } = listening();
      const widget = follow(client, "a");
      client.socket.reply("subscribe", "a", { at: "e.1" });
      reconnect(outside, client);
      client.socket.refuse("subscribe", "a", "unavailable");
      client.socket.say("a", 2, "e.2");
      outside.clock.advance(1_000);
      client.socket.reply("subscribe", "a", { at: "e.2", recovered: true, messages: [{ data: 2, at: "e.2" }] });
      client.socket.say("a", 3, "e.3");
      assert.deepEqual([told, widget.data()], [[1, 2, 3], [2, 3]]);
    });
  });

  test("throws after the end", () => {
    const client = startV1(outside);
    client.live.close();
    assert.throws(() => client.live.listen("a", () => {}), { code: "closed" });
  });
});
