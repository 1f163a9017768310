// A page that wakes dials at once. The delay before a retry is for pages that nobody looks at.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { DOCUMENT_EVENTS, setUp, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const EVENTS = ["online", "pageshow", "focus", "visibilitychange", "resume"];

const listeners = ({ page }, name) => getEventListeners(DOCUMENT_EVENTS.includes(name) ? page.document : page.window, name);

for (const name of EVENTS) {
  test(`${name} ends the waiting at once`, () => {
    const client = startOpen(outside);
    client.socket.end();
    assert.equal(client.live.state, "waiting");
    outside.page.fire(name);
    assert.equal(client.live.state, "connecting");
    assert.equal(client.sockets.length, 2);
    outside.clock.advance(9000);
    assert.equal(client.sockets.length, 2, "the retry that was scheduled is gone");
  });

  test(`${name} disturbs neither a connecting nor an open client`, () => {
    for (const greet of [(socket) => socket.accept(), (socket) => socket.greet()]) {
      const client = start(outside);
      outside.page.fire(name);
      greet(client.socket);
      client.heard.length = 0;
      outside.page.fire(name);
      outside.clock.advance(30_000);
      assert.deepEqual([client.sockets.length, client.heard], [1, []]);
    }
  });
}

test("visibilitychange to hidden wakes nobody", () => {
  const client = startOpen(outside);
  client.socket.end();
  outside.page.document.hidden = true;
  outside.page.fire("visibilitychange");
  assert.equal(client.live.state, "waiting");
});

test("visibility is read at the moment of the event, whatever came before", () => {
  const client = startOpen(outside);
  outside.page.document.hidden = true; // and the event for it is lost
  client.socket.end();
  outside.page.document.hidden = false;
  outside.page.fire("visibilitychange");
  assert.equal(client.live.state, "connecting");
});

test("focus of a page that still counts as hidden wakes it", () => {
  const client = startOpen(outside);
  outside.page.document.hidden = true;
  client.socket.end();
  outside.page.fire("focus");
  assert.equal(client.live.state, "connecting");
});

test("a hidden page reconnects all the same", () => {
  const client = startOpen(outside);
  outside.page.document.hidden = true;
  client.socket.end();
  outside.clock.advance(500);
  assert.equal(client.live.state, "connecting");
});

test("a connection that hung while the machine slept is replaced on waking", () => {
  const client = start(outside);
  const hung = client.socket;
  outside.clock.sleep(3_600_000);
  outside.page.fire("pageshow");
  assert.ok(hung.closedWith);
  assert.equal(client.sockets.length, 2);
  assert.equal(client.live.state, "connecting");
});

test("waking counts as a retry: a server that is down still meets a growing delay", () => {
  const client = start(outside);
  client.socket.end();
  outside.page.fire("focus");
  client.socket.end();
  assert.equal(client.last("state").retryIn, 1000);
});

test("a thousand reconnects leave one timer and the page's listeners as they were", () => {
  const client = startOpen(outside);
  for (let i = 0; i < 1000; i++) {
    client.socket.end();
    outside.page.fire(EVENTS[i % EVENTS.length]);
    client.socket.greet();
    outside.clock.advance(1_000);
  }
  assert.equal(client.sockets.length, 1001);
  assert.equal(outside.clock.timers, 1);
  assert.deepEqual(EVENTS.map((name) => listeners(outside, name).length), EVENTS.map(() => 1));
});

for (const [how, end] of [
  ["close()", (client) => client.live.close()],
  ["the server's final word", (client) => client.socket.end(1000, "over")],
]) {
  test(`after ${how} nothing listens to the page`, () => {
    const client = startOpen(outside);
    const listening = () => EVENTS.flatMap((name) => listeners(outside, name));
    assert.equal(listening().length, EVENTS.length);
    end(client);
    assert.equal(listening().length, 0);
    for (const name of EVENTS) outside.page.fire(name);
    assert.equal(client.sockets.length, 1);
  });
}

test("where there is no page there is nothing to listen to", () => {
  outside.page.restore();
  const client = startOpen(outside);
  client.socket.end();
  outside.clock.advance(500);
  assert.equal(client.live.state, "connecting");
});

describe("events do not hammer", () => {
  const storm = (client, each = () => {}) => {
    for (const name of [...EVENTS, ...EVENTS, ...EVENTS, ...EVENTS]) {
      outside.page.fire(name);
      each(client);
    }
  };
  const fail = (client) => client.live.state === "connecting" && client.socket.end();

  test("twenty against a dead server dial once, and once a second later", () => {
    const client = startOpen(outside, { backoff: { min: 20_000 } });
    client.socket.end();
    storm(client, fail);
    assert.equal(client.sockets.length, 2);
    outside.clock.advance(999);
    storm(client, fail);
    assert.equal(client.sockets.length, 2);
    outside.clock.advance(1);
    assert.equal(client.sockets.length, 3, "what came too soon is not lost");
    assert.equal(outside.clock.timers, 1);
  });

  test("however long they go on, a second lies between their dials", () => {
    const client = startOpen(outside, { backoff: { min: 20_000 } });
    client.socket.end();
    const dials = [];
    let known = 1;
    for (let ms = 0; ms < 20_000; ms += 50) {
      outside.page.fire("focus");
      fail(client);
      outside.clock.advance(50);
      fail(client);
      if (client.sockets.length > known) dials.push(ms);
      known = client.sockets.length;
    }
    assert.ok(dials.length >= 19 && dials.length <= 21, `${dials}`);
  });

  test("a retry that became due in sleep comes with the first event, however recent the last dial", () => {
    const client = startOpen(outside, { backoff: { min: 20_000 } });
    client.socket.end();
    outside.page.fire("focus");
    client.socket.end();
    outside.clock.advance(500);
    outside.clock.sleep(8 * 3_600_000);
    outside.page.fire("focus");
    assert.equal(client.sockets.length, 3);
    client.socket.end();
    outside.page.fire("focus");
    assert.equal(client.sockets.length, 3, "then a second lies between the dials again");
  });

  test("a retry that is due sooner is not put off", () => {
    const client = startOpen(outside, { backoff: { min: 300, max: 300 } });
    client.socket.end();
    outside.page.fire("focus");
    client.socket.end();
    for (let i = 0; i < 3; i++) {
      outside.page.fire("focus");
      outside.clock.advance(100);
    }
    assert.equal(client.sockets.length, 3);
  });

  test("a call of reconnect() dials at once", () => {
    const client = startOpen(outside, { backoff: { min: 20_000 } });
    for (let i = 0; i < 5; i++) {
      client.socket.end();
      outside.page.fire("focus");
      if (client.live.state === "waiting") client.live.reconnect();
      assert.equal(client.live.state, "connecting");
    }
    assert.equal(client.sockets.length, 6);
  });

  for (const [how, end] of [
    ["by 1012", (client) => client.socket.end(1012, "restart; return within 30000 ms")],
    ["by 1013", (client) => client.socket.end(1013, "return within 30000 ms")],
    ["by a drain", (client) => (client.socket.sayFrame({ op: "drain", within: 30_000 }), client.socket.end(1001))],
    ["by a drain, and the connection died", (client) => {
      client.socket.sayFrame({ op: "drain", within: 30_000 });
      outside.clock.advance(4_000);
      outside.page.fire("focus");
      outside.clock.advance(2_000);
    }],
    ["by a drain, and the page was left", (client) => {
      client.socket.sayFrame({ op: "drain", within: 30_000 });
      outside.page.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
    }],
  ]) {
    test(`a window that the server named ${how} is kept`, () => {
      const client = startV1(outside);
      end(client);
      assert.equal(client.live.retryIn, 30_000);
      outside.clock.advance(10_000);
      storm(client);
      assert.deepEqual([client.live.state, client.live.retryIn], ["waiting", 20_000]);
      outside.clock.advance(20_000);
      assert.equal(client.sockets.length, 2);
      client.socket.end();
      outside.page.fire("focus");
      assert.equal(client.sockets.length, 3, "it is over with the dial");
    });

    test(`a window that the server named ${how} is over after a sleep that was longer`, () => {
      const client = startV1(outside);
      end(client);
      outside.clock.advance(5_000);
      outside.clock.sleep(8 * 3_600_000);
      assert.equal(client.live.retryIn, 0);
      outside.page.fire("focus");
      assert.equal(client.live.state, "connecting");
    });

    test(`reconnect() is not bound by a window ${how}`, () => {
      const client = startV1(outside);
      end(client);
      client.live.reconnect();
      assert.equal(client.live.state, "connecting");
    });
  }

  test("a thousand clients whose sign-ins expire together are back spread over a second, whatever happens", () => {
    const slots = Array(10).fill(0);
    for (let i = 0; i < 1_000; i++) {
      const client = startV1(outside, { random: undefined });
      client.socket.end(4200, "sign-in expired");
      outside.page.fire("focus");
      assert.equal(client.live.state, "waiting");
      slots[Math.min(9, Math.floor(client.live.retryIn / 100))]++;
      client.live.close();
    }
    for (const count of slots) assert.ok(count > 50 && count < 150, `${slots}`);
  });
});
