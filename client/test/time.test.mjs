// Clocks jump: the one is set by users, and the other may stop in sleep. A jump must not drop a good connection, or hide a dead one.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setUp, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const HOUR = 3_600_000;
const PING = { op: "ping" };
const PONG = { op: "pong" };

/** Lets time pass, with a ping of the server every 25 s. What the client sent is forgotten. */
function pinged(client, ms) {
  for (; ms > 0; ms -= 25_000) {
    outside.clock.advance(Math.min(ms, 25_000));
    client.socket.sayFrame(PING);
  }
  client.socket.sent.length = 0;
}

/** How the time of a page may jump. */
const forward = {
  "the clock is set forward": () => outside.clock.set(HOUR),
  "the clock is set forward by some seconds": () => outside.clock.set(9_000),
  "the machine slept, and its steady clock with it": () => outside.clock.sleep(8 * HOUR),
  "the machine slept, and both clocks went on": () => outside.clock.stall(8 * HOUR),
  "the machine slept for a minute": () => outside.clock.sleep(60_000),
  "the page was frozen": () => outside.clock.stall(HOUR),
};

for (const [how, jump] of Object.entries(forward)) {
  describe(`when ${how}`, () => {
    test("a good connection is asked for a sign of life at the next check, and kept", () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      jump();
      for (let ms = 0; ms < 5_000 && !client.socket.sent.length; ms += 500) outside.clock.advance(500);
      assert.deepEqual(client.socket.sent, [PING]);
      client.socket.sayFrame(PONG);
      pinged(client, 600_000);
      assert.deepEqual([client.sockets.length, client.heard], [1, []]);
    });

    test("a good connection is kept whose frames wait behind the events", () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      jump();
      for (const name of ["focus", "online", "visibilitychange"]) outside.page.fire(name);
      outside.clock.advance(900);
      client.socket.sayFrame(PING);
      pinged(client, 60_000);
      assert.equal(client.sockets.length, 1);
    });

    test("a dead connection is replaced within 2 s of an event, and without one within 7 s", () => {
      for (const [event, ms] of [["focus", 2_000], ["resize", 7_000]]) {
        const client = startV1(outside);
        pinged(client, 60_000);
        jump();
        outside.page.fire(event);
        outside.clock.advance(ms);
        assert.equal(client.sockets.length, 2, event);
        assert.equal(client.live.state, "connecting", "it is dialled at once");
        client.live.close();
      }
    });

    test("again while it waits for the sign, a good connection still has its time", () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      for (let i = 0; i < 5; i++) {
        jump();
        outside.page.fire("focus");
      }
      assert.equal(client.sockets.length, 1);
      outside.clock.advance(900);
      client.socket.sayFrame(PONG);
      pinged(client, 60_000);
      assert.equal(client.sockets.length, 1);
    });
  });
}

describe("when the clock is set back", () => {
  for (const by of [1_000, HOUR, 365 * 24 * HOUR]) {
    test(`by ${by} ms, nothing changes for a good connection`, () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      outside.clock.set(-by);
      for (let i = 0; i < 10; i++) {
        outside.clock.advance(24_000);
        assert.deepEqual(client.socket.sent, []);
        client.socket.sayFrame(PING);
        assert.deepEqual(client.socket.heard(), [PONG]);
      }
      assert.equal(client.sockets.length, 1);
      assert.deepEqual(client.heard, []);
    });

    test(`by ${by} ms, a dead connection is found as ever`, () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      outside.clock.set(-by);
      outside.clock.advance(40_000);
      assert.equal(client.last("state").reason, "no sign of life");
    });

    test(`by ${by} ms, an event finds a dead connection within 2 s`, () => {
      const client = startV1(outside);
      pinged(client, 60_000);
      outside.clock.set(-by);
      outside.clock.advance(3_000);
      outside.page.fire("focus");
      outside.clock.advance(2_000);
      assert.equal(client.sockets.length, 2);
    });
  }

  test("and forward again, a dead connection is found", () => {
    const client = startV1(outside);
    outside.clock.set(-HOUR);
    outside.clock.advance(5_000);
    outside.clock.set(HOUR);
    outside.clock.advance(7_000);
    assert.equal(client.sockets.length, 2);
  });
});

describe("throttled timers, which run once a minute", () => {
  const minutes = (n, each = () => {}) => {
    for (let i = 0; i < n; i++) {
      outside.clock.stall(30_000);
      each();
      outside.clock.stall(30_000);
      outside.clock.advance(0);
    }
  };

  test("ask nothing of a connection on which the server's pings come", () => {
    const client = startV1(outside);
    minutes(30, () => client.socket.sayFrame(PING));
    assert.deepEqual(client.socket.sent, Array(30).fill(PONG));
    assert.equal(client.sockets.length, 1);
  });

  test("find a dead connection all the same", () => {
    const client = startV1(outside);
    minutes(4);
    assert.equal(client.sockets.length, 2);
  });
});

describe("the wait before a retry", () => {
  for (const [how, jump] of Object.entries({ ...forward, "the clock is set back": () => outside.clock.set(-HOUR) })) {
    test(`is neither negative nor longer when ${how}`, () => {
      const client = startOpen(outside, { backoff: { min: 8_000 } });
      client.socket.end();
      outside.clock.advance(1_000);
      assert.equal(client.live.retryIn, 7_000);
      jump();
      assert.ok(client.live.retryIn >= 0 && client.live.retryIn <= 8_000, `${client.live.retryIn}`);
      outside.clock.advance(7_000);
      assert.equal(client.sockets.length, 2, "it is over when its time is");
    });

    test(`ends with an event when ${how}`, () => {
      const client = startOpen(outside, { backoff: { min: 8_000 } });
      client.socket.end();
      outside.clock.advance(1_000);
      jump();
      outside.page.fire("focus");
      assert.equal(client.sockets.length, 2);
      outside.page.fire("online");
      assert.equal(client.sockets.length, 2, "the new attempt has its time");
    });
  }
});

test("an attempt that hangs is given up in its time when the clock is set back", () => {
  const client = start(outside);
  outside.clock.set(-HOUR);
  outside.page.fire("focus");
  assert.equal(client.sockets.length, 1);
  outside.clock.advance(10_000);
  assert.equal(client.last("state").reason, "connect timeout");
});

test("a jump makes no connection stable that was not, nor the other way round", () => {
  for (const [by, ms, retryIn] of [[HOUR, 4_000, 1_000], [-HOUR, 5_000, 500]]) {
    const client = start(outside);
    client.socket.end();
    outside.clock.advance(500);
    client.socket.greet();
    outside.clock.set(by);
    outside.clock.advance(ms);
    client.socket.end();
    assert.equal(client.last("state").retryIn, retryIn);
  }
});
