// A page that comes back to life does not sit out a delay that was meant for nobody's eyes.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { DOCUMENT_EVENTS, setUp, start, startOpen } from "./fakes.mjs";

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
    const client = start(outside);
    outside.page.fire(name);
    client.socket.accept();
    outside.page.fire(name);
    assert.equal(client.sockets.length, 1);
  });
}

test("visibilitychange to hidden wakes nobody", () => {
  const client = startOpen(outside);
  client.socket.end();
  outside.page.document.visibilityState = "hidden";
  outside.page.fire("visibilitychange");
  assert.equal(client.live.state, "waiting");
});

test("visibility is read at the moment of decision, whatever events came before", () => {
  const client = startOpen(outside);
  outside.page.document.visibilityState = "hidden";
  outside.page.fire("visibilitychange");
  client.socket.end();
  outside.page.document.visibilityState = "visible"; // and the event for it is lost
  outside.page.fire("focus");
  assert.equal(client.live.state, "connecting");
});

test("a hidden page reconnects all the same", () => {
  const client = startOpen(outside);
  outside.page.document.visibilityState = "hidden";
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
  }
  assert.equal(client.sockets.length, 1001);
  assert.equal(outside.clock.timers, 1);
  assert.deepEqual(EVENTS.map((name) => listeners(outside, name).length), EVENTS.map(() => 1));
});

for (const [how, end] of [
  ["close()", (client) => client.live.close()],
  ["the server's final word", (client) => client.socket.end(1000)],
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
