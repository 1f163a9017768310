// No frame is larger than the server takes. Its hello says how large a frame may be.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { codeOf, setUp, settled, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const bytes = (text) => Buffer.byteLength(text);

/** A connection to a server that takes frames of at most so many bytes. */
function greeted(largest, prepare = () => {}, options) {
  const client = start(outside, options);
  prepare(client);
  client.socket.greet(25_000, { largest });
  return client;
}

const topicsOf = (client) => client.socket.sent.flat().filter(({ op }) => op === "subscribe").map(({ topic }) => topic);

describe("subscribing again", () => {
  for (const largest of [120, 200, 512, 2_048, 65_536]) {
    for (const [kind, name] of [["ASCII", (n) => `room:${n}`], ["others", (n) => `räume:☃🔑${n}`]]) {
      test(`in frames of at most ${largest} bytes, with topics of ${kind}`, () => {
        const topics = Array.from({ length: 300 }, (_, n) => name(n));
        const client = greeted(largest, ({ live }) => topics.forEach((topic) => live.subscribe(topic, () => {})));
        assert.ok(client.socket.texts.every((text) => bytes(text) <= largest), `${client.socket.texts.map(bytes)}`);
        assert.deepEqual(topicsOf(client), topics);
        const total = client.socket.texts.reduce((sum, text) => sum + bytes(text), 0);
        assert.ok(client.socket.texts.length <= 1 + 4 * (total / largest), `${client.socket.texts.length} frames`);
      });
    }
  }

  test("60 topics at a limit of 2,048 bytes: each comes on, with its position, at every reconnect", () => {
    const topics = Array.from({ length: 60 }, (_, n) => `chat:room-${n}-${"x".repeat(30)}`);
    const client = greeted(2_048, ({ live }) => topics.forEach((topic) => live.subscribe(topic, () => {})));
    for (let round = 0; round < 3; round++) {
      for (const topic of topics) client.socket.reply("subscribe", topic, { at: `1xk2p9d7c3.${round}`, recovered: true });
      client.socket.end();
      outside.clock.advance(client.live.retryIn);
      client.socket.greet(25_000, { largest: 2_048 });
      assert.deepEqual(topicsOf(client), topics);
      assert.ok(client.socket.sent.flat().every(({ since }) => since === `1xk2p9d7c3.${round}`));
      assert.ok(client.socket.texts.every((text) => bytes(text) <= 2_048));
    }
  });

  test("waits for hello, and what waited comes after it, in order", () => {
    const client = start(outside);
    for (let n = 0; n < 20; n++) client.live.subscribe(`t${n}`, () => {});
    client.live.send("chat", 1);
    const code = codeOf(client.live.publish("chat", 2));
    client.socket.accept("live.v1");
    assert.deepEqual([client.socket.sent, client.live.state], [[], "connecting"]);
    assert.equal(client.live.send("chat", 3), false, "it does not overtake");
    client.socket.sayFrame({ op: "hello", ping: 25_000, largest: 200 });
    assert.equal(client.live.state, "open");
    client.live.send("chat", 4);
    const sent = client.socket.sent.flat();
    assert.deepEqual(sent.slice(0, 20).map(({ topic }) => topic), Array.from({ length: 20 }, (_, n) => `t${n}`));
    assert.deepEqual(sent.slice(20).map(({ data }) => data), [1, 2, 3, 4]);
    client.socket.reply("publish", "chat");
    return code;
  });

  test("is one frame as ever where nothing is known", () => {
    for (const largest of [undefined, null, 0]) {
      const client = greeted(largest, ({ live }) => {
        for (let n = 0; n < 500; n++) live.subscribe(`t${n}`, () => {});
      });
      assert.deepEqual(client.socket.sent.map(({ length }) => length), [500]);
    }
  });

  test("takes the limit of each connection as it is", () => {
    const client = greeted(10_000, ({ live }) => {
      for (let n = 0; n < 50; n++) live.subscribe(`t${n}`, () => {});
    });
    assert.equal(client.socket.texts.length, 1);
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.greet(25_000, { largest: 200 });
    assert.ok(client.socket.texts.length > 10 && client.socket.texts.every((text) => bytes(text) <= 200));
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.greet(25_000);
    assert.equal(client.socket.texts.length, 1);
  });
});

describe("what cannot fit", () => {
  test("of topics fails alone, for good, and is told", async () => {
    const long = "ü".repeat(200);
    const client = greeted(300, () => {});
    const gone = client.live.subscribe(long, () => {});
    client.live.subscribe("short", () => {});
    assert.equal(await codeOf(gone.ready), "too_big");
    assert.deepEqual([client.last("error").code, client.last("error").topic], ["too_big", long]);
    assert.deepEqual(topicsOf(client), ["short"]);
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.greet(25_000, { largest: 300 });
    assert.deepEqual(topicsOf(client), ["short"]);
    gone();
    assert.equal(client.all("error").length, 1);
  });

  test("among many topics stops none of them", async () => {
    const client = start(outside);
    const all = Array.from({ length: 40 }, (_, n) => client.live.subscribe(n % 10 === 3 ? "x".repeat(150 + n) : `t${n}`, () => {}));
    const codes = Promise.all(all.map(({ ready }) => codeOf(ready)));
    client.socket.greet(25_000, { largest: 150 });
    for (const topic of topicsOf(client)) client.socket.reply("subscribe", topic);
    assert.deepEqual(await codes, all.map((_, n) => (n % 10 === 3 ? "too_big" : "none")));
    assert.ok(client.socket.texts.every((text) => bytes(text) <= 150));
  });

  for (const [op, ask] of [
    ["publish", (live, data, uid) => live.publish("a", data, { uid })],
    ["request", (live, data) => live.request("a", data)],
  ]) {
    const uid = op === "publish" ? "u" : undefined;

    /** The size of a frame with empty data. */
    const overhead = bytes(JSON.stringify({ id: 1, op, topic: "a", data: "", uid }));

    for (const [name, character, size] of [["a", "a", 1], ["ü", "ü", 2], ["☃", "☃", 3], ["🔑", "🔑", 4], ["a quote", '"', 2]]) {
      test(`of a ${op} is counted in bytes: ${name}`, async () => {
        const fits = character.repeat(Math.floor(500 / size));
        const largest = overhead + fits.length / character.length * size;
        const client = greeted(largest);
        const answer = ask(client.live, fits, uid);
        assert.equal(bytes(client.socket.texts[0]), largest);
        client.socket.reply(op, "a");
        await answer;
        await assert.rejects(ask(client.live, fits + "a", uid), (err) => err.name === "LiveError" && err.code === "too_big" && err.topic === "a");
        assert.equal(client.socket.texts.length, 1);
      });
    }

    test(`of a ${op} that waited fails alone, and is never sent`, async () => {
      const client = start(outside);
      const codes = [1, "x".repeat(500), 3].map((data) => codeOf(ask(client.live, data)));
      client.socket.greet(25_000, { largest: 200 });
      assert.deepEqual(client.socket.sent.map(({ data }) => data), [1, 3]);
      for (const { id } of client.socket.heard()) client.socket.sayFrame({ op: "reply", id });
      assert.deepEqual(await Promise.all(codes), ["none", "too_big", "none"]);
      assert.equal(client.live.state, "open");
      client.socket.end();
      outside.clock.advance(client.live.retryIn);
      client.socket.greet();
      assert.deepEqual(client.socket.sent, []);
    });
  }

  test("of a send throws, and is an event if it waited", () => {
    const client = start(outside);
    client.live.send("a", "x".repeat(500));
    client.live.send("a", 2);
    client.socket.greet(25_000, { largest: 200 });
    assert.deepEqual(client.socket.sent, [{ topic: "a", data: 2 }]);
    assert.equal(client.last("error").code, "too_big");
    assert.throws(() => client.live.send("a", "x".repeat(500)), { name: "LiveError", code: "too_big" });
    assert.equal(client.live.send("a", 3), true);
  });

  test("of a question with a long topic fails, too", async () => {
    const client = greeted(200);
    assert.equal(await codeOf(client.live.history("x".repeat(200))), "too_big");
    assert.deepEqual(client.socket.sent, []);
  });

  test("is sent on the plain wire, which says no limit", async () => {
    const client = greeted(200);
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.accept();
    assert.equal(client.live.send("a", "x".repeat(5_000)), true);
    await client.live.publish("a", "x".repeat(5_000));
    assert.equal(client.socket.texts.length, 2);
  });
});

describe("what is unsent", () => {
  const MB = 2 ** 20;
  const small = "x".repeat(1_000);

  for (const [wire, open] of [["live.v1", startV1], ["the plain wire", startOpen]]) {
    test(`is bounded on ${wire}`, async () => {
      const client = open(outside);
      client.socket.bufferedAmount = MB;
      assert.throws(() => client.live.send("a", 1), { name: "LiveError", code: "buffer_full" });
      assert.equal(await codeOf(client.live.publish("a", 1)), "buffer_full");
      if (open === startV1) assert.equal(await codeOf(client.live.request("a", 1)), "buffer_full");
      client.socket.bufferedAmount = MB - 2_000;
      assert.equal(client.live.send("a", small), true);
      client.socket.bufferedAmount = MB - 500;
      assert.throws(() => client.live.send("a", small), { code: "buffer_full" });
      client.socket.bufferedAmount = 0;
      assert.equal(client.live.send("a", "x".repeat(4 * MB)), true);
      assert.equal(client.socket.sent.length, 2);
      assert.deepEqual(client.all("error"), []);
    });
  }

  test("may be bounded otherwise", () => {
    for (const [maxUnsent, unsent, ok] of [
      [5_000, 4_500, false],
      [5_000, 3_000, true],
      [Infinity, 100 * MB, true],
      [0, 1, false],
      [0, 0, true],
      [null, MB, false],
      [undefined, MB, false],
    ]) {
      const client = startV1(outside, { maxUnsent });
      client.socket.bufferedAmount = unsent;
      if (ok) assert.equal(client.live.send("a", small), true);
      else assert.throws(() => client.live.send("a", small), { code: "buffer_full" });
    }
  });

  test("is counted in bytes", () => {
    const client = startV1(outside, { maxUnsent: 2_000 });
    client.socket.bufferedAmount = 100;
    assert.equal(client.live.send("a", "ü".repeat(900)), true);
    assert.throws(() => client.live.send("a", "☃".repeat(900)), { code: "buffer_full" });
  });

  test("holds up neither subscriptions, nor what waited, nor pongs", async () => {
    const client = start(outside, { maxUnsent: 10 });
    client.live.send("a", small);
    client.live.send("a", small);
    client.socket.bufferedAmount = 50;
    client.socket.greet();
    client.live.subscribe("b", () => {});
    client.socket.sayFrame({ op: "ping" });
    await settled();
    assert.equal(client.socket.sent.length, 4);
    assert.deepEqual(client.all("error"), []);
  });

  test("is unknown for a class that does not say it", () => {
    const client = startV1(outside);
    client.socket.bufferedAmount = undefined;
    for (let i = 0; i < 3; i++) assert.equal(client.live.send("a", "x".repeat(MB)), true);
  });
});
