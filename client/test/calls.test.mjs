// Operations that have an answer: publish, request, history.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { LiveError } from "../live.js";
import { codeOf, reconnect, setUp, settled, start, startOpen, startV1, withoutUids } from "./fakes.mjs";

const outside = setUp();

const operations = [
  ["publish", (live, options) => live.publish("a", { n: 1 }, options), { data: { n: 1 } }, { at: "e.1" }, "e.1"],
  ["publish", (live, options) => live.publish("a", undefined, options), { data: null }, {}, undefined],
  ["request", (live, options) => live.request("a", { n: 1 }, options), { data: { n: 1 } }, { data: ["x"] }, ["x"]],
  ["request", (live, options) => live.request("a", undefined, options), { data: null }, {}, undefined],
  ["history", (live, options) => live.history("a", 2, options), { limit: 2 }, { messages: [{ data: 1, at: "e.1" }] }, [{ data: 1, at: "e.1" }]],
  ["history", (live, options) => live.history("a", undefined, options), { limit: 100 }, { messages: [] }, []],
];
for (const [op, call, members, reply, value] of operations) {
  describe(`${op} with ${JSON.stringify(members)}`, () => {
    test("resolves with the reply", async () => {
      const client = startV1(outside);
      const answer = call(client.live);
      assert.deepEqual(withoutUids(client.socket.sent), [{ id: 1, op, topic: "a", ...members }]);
      client.socket.reply(op, "a", reply);
      assert.deepEqual(await answer, value);
      assert.equal(outside.clock.timers, 1, "only the check of the connection is left");
    });

    test("rejects with the server's error", async () => {
      const client = startV1(outside);
      const answer = call(client.live);
      client.socket.refuse(op, "a", "forbidden", "not for you");
      const forbidden = (err) => err instanceof LiveError && err.code === "forbidden" && /not for you/.test(err.message);
      await assert.rejects(answer, (err) => forbidden(err) && err.topic === "a");
      assert.deepEqual(client.heard, [], "it is the caller's alone");
    });

    test("rejects with disconnected when the connection breaks before the answer, and is not sent again", async () => {
      const client = startV1(outside);
      const code = codeOf(call(client.live, op === "publish" ? { offline: "fail" } : {}));
      reconnect(outside, client);
      assert.equal(await code, "disconnected");
      assert.deepEqual(client.socket.sent, []);
    });

    test("waits for a connection", async () => {
      const client = start(outside);
      const answer = call(client.live);
      client.socket.greet();
      client.socket.reply(op, "a", reply);
      assert.deepEqual(await answer, value);
    });

    test("rejects at once after the end", async () => {
      const client = startV1(outside);
      client.live.close();
      assert.equal(await codeOf(call(client.live)), "closed");
      assert.equal(outside.clock.timers, 0);
    });

    test("is never answered on the plain wire", async () => {
      const client = startOpen(outside);
      assert.equal(await codeOf(call(client.live)), op === "publish" ? "none" : "unsupported");
      const waiting = start(outside);
      const code = codeOf(call(waiting.live));
      waiting.socket.accept();
      assert.equal(await code, op === "publish" ? "none" : "unsupported");
    });
  });
}

describe("answers", () => {
  test("find their calls, whatever their order", async () => {
    const client = startV1(outside);
    const calls = [1, 2, 3].map((n) => client.live.request("a", n));
    for (const { id, data } of client.socket.heard().reverse()) client.socket.sayFrame({ op: "reply", id, data: data * 10 });
    assert.deepEqual(await Promise.all(calls), [10, 20, 30]);
  });

  test("that nobody waits for do no harm", async () => {
    const client = startV1(outside);
    const code = codeOf(client.live.request("a", 1, { timeout: 50 }));
    outside.clock.advance(50);
    client.socket.reply("request", "a", { data: 1 });
    client.socket.refuse("request", "a", "internal");
    client.socket.sayFrame({ op: "reply", id: 99 });
    assert.equal(await code, "timeout");
    assert.deepEqual(client.heard, []);
  });

  test("without an id are errors that nobody else would see", () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "error", code: "bad_request", message: "no topic" });
    const err = client.last("error");
    assert.deepEqual([err.name, err.code, err.message], ["LiveError", "bad_request", "live: no topic"]);
    client.socket.sayFrame({ op: "error", topic: "a", code: "forbidden", message: "not for you" });
    assert.deepEqual([client.last("error").code, client.last("error").topic], ["forbidden", "a"]);
    client.socket.sayFrame({ op: "reply" });
    assert.equal(client.all("error").length, 2);
  });

  const failures = {
    timeout: () => outside.clock.advance(10_000),
    disconnected: (client) => client.socket.end(),
    closed: (client) => client.live.close(),
    bad_message: (client, id) => client.socket.sayFrame({ op: "reply", id, text: "{" }),
    internal: (client, id) => client.socket.sayFrame({ op: "error", id }),
  };
  for (const [code, fail] of Object.entries(failures)) {
    test(`that fail with ${code} name their topics, each its own`, async () => {
      const client = startV1(outside);
      client.socket.sayFrame({ op: "hello", ping: 0 });
      const calls = ["a", "b"].map((topic) => client.live.request(topic));
      const told = Promise.all(calls.map((call) => call.catch((err) => [err.code, err.topic])));
      for (const { id } of client.socket.heard()) fail(client, id);
      assert.deepEqual(await told, [[code, "a"], [code, "b"]]);
    });
  }

  test("that cannot be asked for name their topics, too", async () => {
    const told = (promise) => promise.catch((err) => [err.code, err.topic]);
    const client = start(outside, { maxBuffered: 0 });
    assert.deepEqual(await told(client.live.publish("a", 1)), ["buffer_full", "a"]);
    assert.deepEqual(await told(client.live.publish("a", 1, { offline: "fail" })), ["offline", "a"]);
    assert.deepEqual(await told(client.live.history("a", 1, { signal: AbortSignal.abort() })), ["aborted", "a"]);
    client.live.close();
    assert.deepEqual(await told(client.live.history("a")), ["closed", "a"]);
    assert.deepEqual(await told(startOpen(outside).live.request("a")), ["unsupported", "a"]);
  });

  test("operations that are not known yet are ignored", () => {
    const client = startV1(outside);
    for (const frame of [{ op: "presence", topic: "a", joined: [] }, { op: "new", topic: "a", data: 1 }]) client.socket.sayFrame(frame);
    assert.deepEqual(client.heard, []);
  });
});

describe("a call's timeout", () => {
  test("is 10 s", async () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "hello", ping: 0 });
    let code;
    codeOf(client.live.request("a")).then((c) => (code = c));
    outside.clock.advance(9_999);
    await settled();
    assert.equal(code, undefined);
    outside.clock.advance(1);
    await settled();
    assert.equal(code, "timeout");
  });

  test("counts the time without a connection; what is given up is not sent any more", async () => {
    const client = start(outside);
    const code = codeOf(client.live.publish("a", 1, { timeout: 3_000 }));
    outside.clock.advance(3_000);
    assert.equal(await code, "timeout");
    client.socket.greet();
    assert.deepEqual(client.socket.sent, []);
  });

  test("may be never", async () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "hello", ping: 0 });
    const answer = client.live.request("a", 1, { timeout: Infinity });
    outside.clock.advance(30 * 24 * 3_600_000);
    client.socket.reply("request", "a", { data: "at last" });
    assert.equal(await answer, "at last");
  });
});

describe("a call's signal", () => {
  test("gives it up, sent or not", async () => {
    const abort = new AbortController();
    const client = start(outside);
    const codes = [codeOf(client.live.publish("a", 1, { signal: abort.signal }))];
    const other = startV1(outside);
    codes.push(codeOf(other.live.publish("a", 1, { signal: abort.signal })));
    abort.abort();
    assert.deepEqual(await Promise.all(codes), ["aborted", "aborted"]);
    client.socket.greet();
    assert.deepEqual(client.socket.sent, []);
    assert.equal(outside.clock.timers, 2, "only the checks of the connections are left");
  });

  test("that has aborted already sends nothing", async () => {
    const client = startV1(outside);
    assert.equal(await codeOf(client.live.publish("a", 1, { signal: AbortSignal.abort() })), "aborted");
    assert.deepEqual(client.socket.sent, []);
  });

  test("is left clean by what has its answer", async () => {
    const client = startV1(outside);
    const { signal } = new AbortController();
    for (let i = 0; i < 20; i++) {
      const answer = client.live.request("a", i, { signal });
      client.socket.reply("request", "a");
      await answer;
    }
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });
});

describe("without a connection", () => {
  test("calls and messages wait together, in order, up to the bound, which the caller sees", async () => {
    const client = start(outside, { maxBuffered: 3 });
    const codes = [codeOf(client.live.publish("a", 1))];
    client.live.send("b", 2);
    codes.push(codeOf(client.live.request("c", 3)));
    assert.equal(await codeOf(client.live.publish("d", 4)), "buffer_full");
    assert.throws(() => client.live.send("d", 4), { code: "buffer_full" });
    client.socket.greet();
    assert.deepEqual(client.socket.sent.map(({ topic, data }) => [topic, data]), [["a", 1], ["b", 2], ["c", 3]]);
    client.socket.reply("publish", "a");
    client.socket.reply("request", "c");
    assert.deepEqual(await Promise.all(codes), ["none", "none"]);
  });

  test("one may rather fail than wait", async () => {
    const client = start(outside);
    assert.equal(await codeOf(client.live.publish("a", 1, { offline: "fail" })), "offline");
    client.socket.greet();
    const answer = client.live.publish("a", 2, { offline: "fail" });
    client.socket.reply("publish", "a", { at: "e.1" });
    assert.equal(await answer, "e.1");
    client.socket.readyState = 2; // it closes, and nobody has said so yet
    assert.equal(await codeOf(client.live.publish("a", 3, { offline: "fail" })), "offline");
    assert.deepEqual(client.socket.sent.map(({ data }) => data), [2]);
  });

  test("what waited is sent once, and what was given up makes room", async () => {
    const client = start(outside, { maxBuffered: 1 });
    const abort = new AbortController();
    const given = codeOf(client.live.publish("a", 1, { signal: abort.signal }));
    abort.abort();
    assert.equal(await given, "aborted");
    const kept = codeOf(client.live.request("a", 2));
    client.socket.greet();
    assert.deepEqual(client.socket.heard().map(({ data }) => data), [2]);
    reconnect(outside, client);
    assert.equal(await kept, "disconnected");
    assert.deepEqual(client.socket.sent, []);
  });

  test("what cannot be JSON fails, and leaves nothing behind", async () => {
    const client = start(outside);
    await assert.rejects(client.live.publish("a", 1n), TypeError);
    await assert.rejects(client.live.request(undefined, 1), TypeError);
    client.socket.greet();
    assert.deepEqual(client.socket.sent, []);
    assert.equal(outside.clock.timers, 1);
  });
});

describe("the end", () => {
  test("by close() is closed for what was sent and what waited, and counts what waited", async () => {
    const client = startV1(outside);
    const codes = [codeOf(client.live.request("a"))];
    client.socket.readyState = 2;
    codes.push(codeOf(client.live.publish("a", 1)));
    client.live.send("b", 2);
    client.live.close();
    assert.deepEqual(await Promise.all(codes), ["closed", "closed"]);
    assert.equal(client.last("state").unsent, 2);
    assert.equal(outside.clock.timers, 0);
  });

  test("by the server's final word leaves open what became of what was sent", async () => {
    const client = startV1(outside);
    const codes = [codeOf(client.live.request("a"))];
    client.socket.readyState = 2;
    codes.push(codeOf(client.live.request("b")));
    client.socket.end(4001, "signed out");
    assert.deepEqual(await Promise.all(codes), ["disconnected", "closed"]);
    assert.equal(outside.clock.timers, 0);
  });
});
