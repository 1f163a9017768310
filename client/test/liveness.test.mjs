// A socket may say OPEN long after its connection is dead. Silence and a ping decide. Tests of the clocks are in time.test.mjs.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setUp, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const WAKES = ["online", "pageshow", "focus", "visibilitychange", "resume"];
const PING = { op: "ping" };

/** Lets time pass with a ping every 25 s, as the server sends them. */
function pinged(client, ms) {
  for (; ms >= 25_000; ms -= 25_000) {
    outside.clock.advance(25_000);
    client.socket.sayFrame(PING);
  }
  outside.clock.advance(ms);
}

describe("a ping", () => {
  test("is answered at once", () => {
    const client = startV1(outside);
    client.socket.sayFrame(PING);
    client.socket.sayFrame(PING);
    assert.deepEqual(client.socket.sent, [{ op: "pong" }, { op: "pong" }]);
    assert.deepEqual(client.heard, []);
  });

  test("is answered while timers are throttled: nothing of it hangs on one", () => {
    const client = startV1(outside);
    for (let i = 0; i < 10; i++) {
      outside.clock.stall(25_000);
      client.socket.sayFrame(PING);
    }
    assert.equal(client.socket.sent.length, 10);
    outside.clock.advance(0); // the timers' turn, 250 s late
    assert.equal(client.sockets.length, 1);
    assert.equal(client.live.state, "open");
  });
});

describe("a connection on which nothing is heard", () => {
  test("is replaced after the server's ping interval and 10 s, at the next check, with backoff", () => {
    const client = startV1(outside);
    const dead = client.socket;
    outside.clock.advance(35_000);
    assert.equal(client.live.state, "open");
    outside.clock.advance(5_000);
    assert.deepEqual(client.last("state"), { state: "waiting", attempt: 1, retryIn: 500, code: 1006, reason: "no sign of life" });
    assert.deepEqual(client.names(), ["waiting", "close"]);
    assert.ok(dead.closedWith, "the dead socket is closed");
    outside.clock.advance(500);
    assert.equal(client.sockets.length, 2);

    dead.greet();
    dead.say("a", "late");
    dead.end(1000);
    assert.equal(client.live.state, "connecting", "the dead socket is not heard any more");
  });

  test("follows the interval that hello names", () => {
    const client = start(outside);
    client.socket.greet(1_000);
    outside.clock.advance(10_000);
    assert.equal(client.live.state, "open");
    outside.clock.advance(5_000);
    assert.equal(client.live.state, "waiting");
  });

  test("stands for ever if the server does not ping", () => {
    const client = start(outside);
    client.socket.greet(0);
    outside.clock.advance(24 * 3_600_000);
    assert.equal(client.live.state, "open");
  });

  test("stands for ever on the plain wire, which has no ping", () => {
    const client = startOpen(outside);
    outside.clock.advance(24 * 3_600_000);
    for (const name of WAKES) outside.page.fire(name);
    assert.deepEqual([client.live.state, client.socket.sent, client.heard], ["open", [], []]);
  });

  test("not even hello, is given up after the connect timeout", () => {
    const client = start(outside, { connectTimeout: 7_000 });
    outside.clock.advance(5_000);
    client.socket.accept("live.v1");
    outside.clock.advance(1_999);
    assert.equal(client.live.state, "connecting", "it is open with hello");
    outside.clock.advance(1);
    assert.equal(client.last("state").reason, "connect timeout");
    assert.deepEqual(client.names(), ["waiting"], "what was not open is not closed");
  });

  test("is kept by anything that is heard", () => {
    const client = startV1(outside);
    pinged(client, 600_000);
    for (const frame of ["{", '{"topic":"a","data":1}', '{"op":"gap","topic":"a"}']) {
      outside.clock.advance(34_000);
      client.socket.sayRaw(frame);
    }
    outside.clock.advance(34_000);
    assert.equal(client.live.state, "open");
    assert.equal(client.sockets.length, 1);
  });

  test("is found within 2 s of waking when the machine has slept, and replaced at once", () => {
    for (const name of WAKES) {
      const client = startV1(outside);
      outside.clock.sleep(3_600_000);
      outside.page.fire(name);
      assert.deepEqual(client.socket.sent, [PING], name);
      outside.clock.advance(2_000);
      assert.equal(client.live.state, "connecting", name);
      assert.equal(client.sockets.length, 2);
      assert.ok(client.sockets[0].closedWith);
      outside.page.fire(name);
      outside.page.fire("focus");
      assert.equal(client.sockets.length, 2, "two quick wakes make one socket");
      client.live.close();
    }
  });
});

describe("a page that wakes", () => {
  for (const name of WAKES) {
    test(`by ${name} pings an open connection`, () => {
      const client = startV1(outside);
      outside.clock.advance(4_000);
      outside.page.fire(name);
      assert.deepEqual(client.socket.texts, ['{"op":"ping"}']);
      client.socket.sayFrame({ op: "pong" });
      pinged(client, 60_000);
      assert.equal(client.sockets.length, 1);
      assert.deepEqual(client.heard, []);
    });
  }

  test("replaces a connection that is silent for 2 s, and dials at once", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    outside.page.fire("focus");
    outside.clock.advance(1_999);
    assert.equal(client.live.state, "open");
    outside.clock.advance(1);
    assert.deepEqual(client.names(), ["waiting", "close", "connecting"]);
    assert.equal(client.sockets.length, 2);
    assert.ok(client.sockets[0].closedWith);
  });

  test("takes any frame for a sign of life", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    outside.page.fire("focus");
    outside.clock.advance(1_000);
    client.socket.say("a", 1);
    outside.clock.advance(20_000);
    assert.equal(client.live.state, "open");
  });

  test("asks once, and more wakes put nothing off", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    for (let i = 0; i < 4; i++) {
      outside.page.fire("focus");
      outside.clock.advance(500);
    }
    assert.equal(client.sockets[0].sent.length, 1);
    outside.page.fire("focus");
    assert.equal(client.sockets.length, 2);
  });

  test("finds a connection dead whose answer was due in a second sleep", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    outside.page.fire("focus");
    outside.clock.sleep(10_000);
    outside.page.fire("visibilitychange");
    assert.equal(client.live.state, "open", "the pong may be in the queue");
    outside.clock.advance(2_000);
    assert.equal(client.live.state, "connecting");
    assert.equal(client.sockets.length, 2);
  });

  test("does not ping a connection that was heard just now", () => {
    const client = startV1(outside);
    outside.clock.advance(60_000 - 30_000);
    client.socket.sayFrame(PING);
    client.socket.sent.length = 0;
    outside.clock.advance(2_000);
    for (const name of WAKES) outside.page.fire(name);
    assert.deepEqual(client.socket.sent, []);
  });

  test("asks nothing when it is hidden, nor when it goes offline", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    outside.page.document.hidden = true;
    outside.page.fire("visibilitychange");
    outside.page.fire("offline");
    outside.page.fire("freeze");
    assert.deepEqual(client.socket.sent, []);
    assert.equal(client.live.state, "open");
  });

  test("replaces a socket that is closing and cannot be asked", () => {
    const client = startV1(outside);
    outside.clock.advance(4_000);
    client.socket.readyState = 2;
    outside.page.fire("focus");
    outside.clock.advance(2_000);
    assert.equal(client.live.state, "connecting");
  });

  test("disturbs no subscription", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data) => told.push(data));
    client.socket.reply("subscribe", "a");
    outside.clock.advance(4_000);
    outside.page.fire("focus");
    client.socket.sayFrame({ op: "pong" });
    client.socket.say("a", 1);
    assert.deepEqual(told, [1]);
    assert.deepEqual(client.all("error"), []);
  });
});

describe("reconnect()", () => {
  test("ends the waiting at once, and counts as a retry", () => {
    const client = startV1(outside);
    client.socket.end();
    client.live.reconnect();
    client.live.reconnect();
    assert.equal(client.live.state, "connecting");
    assert.equal(client.sockets.length, 2);
    client.socket.end();
    assert.equal(client.last("state").retryIn, 1_000);
  });

  test("pings an open connection", () => {
    const client = startV1(outside);
    client.live.reconnect();
    assert.deepEqual(client.socket.sent, []);
    outside.clock.advance(4_000);
    client.live.reconnect();
    assert.equal(client.socket.sent.length, 1);
  });

  test("does nothing while connecting in time", () => {
    const client = start(outside);
    client.live.reconnect();
    assert.equal(client.sockets.length, 1);
  });

  for (const [how, end, said] of [
    ["close()", (client) => client.live.close(), /closed/],
    ["4001", (client) => client.socket.end(4001, "not allowed"), /4001.*not allowed/],
    ["4002 without a reason", (client) => client.socket.end(4002), /4002/],
    ["1000 with a reason", (client) => client.socket.end(1000, "moved away"), /1000.*moved away/],
  ]) {
    test(`after ${how} says why it cannot`, async () => {
      const client = startV1(outside);
      end(client);
      const closed = (err) => err.name === "LiveError" && err.code === "closed" && said.test(err.message) && /connect again/.test(err.message);
      assert.throws(() => client.live.reconnect(), closed);
      assert.throws(() => client.live.send("a"), closed);
      assert.throws(() => client.live.subscribe("a", () => {}), closed);
      await assert.rejects(client.live.publish("a"), closed);
      assert.equal(client.sockets.length, 1);
      assert.equal(client.live.state, "closed");
    });
  }

  test("from inside a listener makes one socket", () => {
    const client = startV1(outside);
    client.live.on("state", ({ state }) => state === "waiting" && client.live.reconnect());
    client.live.on("close", () => client.live.reconnect());
    client.socket.end();
    assert.equal(client.sockets.length, 2);
    assert.equal(client.live.state, "connecting");
    outside.clock.advance(9_000);
    assert.equal(client.sockets.length, 2);
  });
});

describe("drain", () => {
  const drained = (code, reason, options) => {
    const client = startV1(outside, options);
    client.socket.sayFrame({ op: "drain", within: 8_000 });
    assert.equal(client.live.state, "open");
    client.socket.end(code, reason);
    return client;
  };

  for (const [code, reason, random, retryIn] of [
    [1012, "", 0.5, 4_000],
    [1012, "return within 5000 ms", 0.5, 2_500],
    [1006, "", 0.25, 2_000],
    [1001, "", 1, 8_000],
    [4100, "", 1, 8_000],
    [4200, "", 1, 1_000],
    [1000, "", 0.5, 4_000],
  ]) {
    test(`then ${code} "${reason}" at ${random}: back in ${retryIn}`, () => {
      const client = drained(code, reason, { random: () => random });
      assert.equal(client.last("state").retryIn, retryIn);
    });
  }

  test("is no reason to come back from a final word", () => {
    assert.equal(drained(1000, "over").live.state, "closed");
  });

  test("is bounded, and spent once", () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "drain", within: 3_600_000 });
    client.socket.end(1012);
    assert.equal(client.last("state").retryIn, 60_000);
    outside.clock.advance(60_000);
    client.socket.end();
    assert.equal(client.last("state").retryIn, 1_000);
  });

  test("without a time is backed off from as ever", () => {
    for (const within of [0, undefined, "soon", null, -1]) {
      const client = startV1(outside);
      client.socket.sayFrame({ op: "drain", within });
      client.socket.end();
      assert.equal(client.last("state").retryIn, 500);
    }
  });
});
