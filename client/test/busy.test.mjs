// A busy connection is not dead: the server's application takes its time, or many bytes are on their way.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { codeOf, reconnect, setUp, startV1 } from "./fakes.mjs";

const outside = setUp();
const MB = 2 ** 20;

/** Wakes the page after a silence. The server does not answer the ping. */
function wake(after = 4_000) {
  outside.clock.advance(after);
  outside.page.fire("focus");
}

const questions = {
  request: (live, options) => live.request("a", 1, options),
  publish: (live, options) => live.publish("a", 1, options),
  history: (live, options) => live.history("a", 5, options),
};
for (const [op, ask] of Object.entries(questions)) {
  describe(`while the answer to a ${op} is due`, () => {
    test("the connection is kept though nothing is heard", async () => {
      const client = startV1(outside);
      const answer = ask(client.live, { timeout: 60_000 });
      wake();
      outside.clock.advance(25_000);
      assert.equal(client.live.state, "open");
      client.socket.reply(op, "a", { at: "e.1", data: "late", messages: [] });
      await answer;
      assert.equal(client.sockets.length, 1);
    });

    test("the patience with the server's pings still ends it", async () => {
      const client = startV1(outside);
      const code = codeOf(ask(client.live, { timeout: Infinity, offline: "fail" }));
      outside.clock.advance(4_000);
      outside.page.fire("focus");
      outside.clock.advance(30_000);
      assert.equal(client.live.state, "open");
      outside.clock.advance(7_000);
      assert.equal(await code, "disconnected");
      assert.equal(client.live.state, "connecting", "someone has woken the page");
    });

    for (const [how, options, give] of [
      ["timeout", { timeout: 5_000 }, () => {}],
      ["signal", { signal: new AbortController() }, ({ signal }) => signal.abort()],
    ]) {
      test(`which is given up by its ${how}: it is on its way all the same`, async () => {
        const client = startV1(outside);
        const code = codeOf(ask(client.live, { ...options, signal: options.signal?.signal }));
        wake();
        give(options);
        outside.clock.advance(20_000);
        assert.notEqual(await code, "none");
        assert.equal(client.live.state, "open");
        client.socket.reply(op, "a", { messages: [{ data: 1 }], more: true });
        client.socket.reply(op, "a");
        wake();
        outside.clock.advance(2_000);
        assert.equal(client.sockets.length, 2, "now nothing is due");
      });
    }
  });
}

test("while a subscription is not answered the connection is kept", () => {
  const client = startV1(outside);
  client.live.subscribe("a", () => {});
  wake();
  outside.clock.advance(20_000);
  assert.equal(client.live.state, "open");
  client.socket.reply("subscribe", "a", { at: "e.1" });
  wake();
  outside.clock.advance(2_000);
  assert.equal(client.sockets.length, 2);
});

test("a slow application is no reason to ask twice, nor to drop its answer", async () => {
  const client = startV1(outside);
  const answer = client.live.request("slow", 1);
  for (let i = 0; i < 9; i++) {
    outside.clock.advance(1_000);
    outside.page.fire("focus");
  }
  assert.deepEqual(client.socket.texts.slice(1), ['{"op":"ping"}']);
  client.socket.sayFrame({ op: "pong" });
  client.socket.reply("request", "slow", { data: "done" });
  assert.equal(await answer, "done");
  assert.deepEqual(client.heard, []);
});

describe("an upload", () => {
  test("that is not sent yet delays the ping, and keeps the connection", () => {
    const client = startV1(outside);
    client.socket.bufferedAmount = 4 * MB;
    wake();
    outside.clock.advance(20_000);
    assert.equal(client.live.state, "open");
    client.socket.bufferedAmount = 0;
    outside.clock.advance(1_000);
    assert.equal(client.sockets.length, 2, "nothing holds the pong up any more");
  });

  test("that moves is a sign of life for as long as it moves", () => {
    const client = startV1(outside);
    client.socket.bufferedAmount = 4 * MB;
    wake();
    for (let ms = 0; ms < 300_000; ms += 5_000) {
      outside.clock.advance(5_000);
      client.socket.bufferedAmount -= 10_000;
    }
    assert.equal(client.live.state, "open");
    outside.clock.advance(30_000);
    assert.equal(client.live.state, "open");
    outside.clock.advance(11_000);
    assert.equal(client.sockets.length, 2, "it has not moved for the whole patience");
  });

  test("that stands still, or only grows, ends with the patience", () => {
    for (const growth of [0, 1_000]) {
      const client = startV1(outside);
      client.socket.bufferedAmount = 1_000;
      for (let ms = 0; ms < 40_000; ms += 1_000) {
        outside.clock.advance(1_000);
        client.socket.bufferedAmount += growth;
      }
      assert.equal(client.last("state").reason, "no sign of life");
    }
  });

  test("that the system has taken, but not sent, keeps the connection too", () => {
    const client = startV1(outside);
    client.live.send("file", "x".repeat(4 * MB));
    assert.equal(client.socket.bufferedAmount, 0);
    wake();
    outside.clock.advance(20_000);
    assert.equal(client.live.state, "open");
    client.socket.sayFrame({ op: "pong" });
  });

  test("of some kilobytes, or one that was long ago, delays nothing", () => {
    for (const [size, ago] of [[5_000, 0], [500_000, 60_000]]) {
      const client = startV1(outside);
      client.socket.sayFrame({ op: "hello", ping: 0 });
      client.live.send("file", "x".repeat(size));
      outside.clock.advance(ago);
      wake();
      outside.clock.advance(2_000);
      assert.equal(client.sockets.length, 2, `${size}`);
    }
  });

  test("counts for its own connection alone", () => {
    const client = startV1(outside);
    client.live.send("file", "x".repeat(4 * MB));
    client.socket.bufferedAmount = 4 * MB;
    client.socket.end();
    outside.clock.advance(500);
    client.socket.greet();
    wake();
    outside.clock.advance(2_000);
    assert.equal(client.sockets.length, 3);
  });

  test("is no matter for a class that does not say what is unsent", () => {
    const client = startV1(outside);
    client.socket.bufferedAmount = undefined;
    client.live.send("a", 1);
    wake();
    outside.clock.advance(2_000);
    assert.equal(client.sockets.length, 2);
  });
});

describe("a connection that has brought large messages", () => {
  for (const [size, kept, ended] of [
    [1_000, 1_999, 2_000],
    [200_000, 4_999, 6_000],
    [500_000, 10_999, 12_000],
  ]) {
    test(`of ${size} bytes has ${ended} ms for its pong`, () => {
      const client = startV1(outside);
      client.socket.say("news", "☃".repeat(size / 3));
      client.socket.say("news", "short");
      client.heard.length = 0;
      wake();
      outside.clock.advance(kept);
      assert.equal(client.live.state, "open");
      outside.clock.advance(ended - kept);
      assert.equal(client.live.state, "connecting");
    });
  }

  test("has no more than the patience", () => {
    const client = startV1(outside);
    client.socket.say("news", "x".repeat(8 * MB));
    wake();
    outside.clock.advance(40_000);
    assert.equal(client.sockets.length, 2);
  });

  test("is not its successor", () => {
    const client = startV1(outside);
    client.socket.say("news", "x".repeat(8 * MB));
    reconnect(outside, client);
    wake();
    outside.clock.advance(2_000);
    assert.equal(client.sockets.length, 3);
  });

  test("may bring bytes", () => {
    const client = startV1(outside);
    client.socket.sayRaw(new ArrayBuffer(3));
    wake();
    outside.clock.advance(2_000);
    assert.equal(client.sockets.length, 2);
  });
});

test("with nothing due, a dead connection is found 2 s after waking, whatever it carried before", async () => {
  const client = startV1(outside);
  client.live.subscribe("a", () => {});
  client.socket.reply("subscribe", "a");
  const answer = client.live.request("a", "x".repeat(1_000));
  client.socket.reply("request", "a");
  await answer;
  const refused = codeOf(client.live.request("a"));
  client.socket.refuse("request", "a", "internal");
  assert.equal(await refused, "internal");
  wake();
  outside.clock.advance(1_999);
  assert.equal(client.live.state, "open");
  outside.clock.advance(1);
  assert.equal(client.sockets.length, 2);
});
