// Where the client connects to.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { connect } from "../live.js";
import { FakeSocket, setUp } from "./fakes.mjs";

const outside = setUp();
afterEach(() => {
  delete globalThis.location;
});

function address(url, location) {
  if (location) globalThis.location = { href: location };
  const live = connect(url, { WebSocket: FakeSocket });
  outside.clients.push(live);
  return live.url;
}

const table = [
  [undefined, "https://app.example/rooms/7?x=1#top", "wss://app.example/live"],
  [undefined, "http://localhost:8080/", "ws://localhost:8080/live"],
  ["/ws", "https://app.example/rooms/7", "wss://app.example/ws"],
  ["ws", "https://app.example/rooms/7", "wss://app.example/rooms/ws"],
  ["?v=1", "https://app.example/rooms/7", "wss://app.example/rooms/7?v=1"],
  ["//other.example/live", "https://app.example/", "wss://other.example/live"],
  ["https://other.example/live", "http://app.example/", "wss://other.example/live"],
  ["http://other.example:81/live", undefined, "ws://other.example:81/live"],
  ["ws://other.example/live", "https://app.example/", "ws://other.example/live"],
  ["wss://other.example/live?a=b#c", undefined, "wss://other.example/live?a=b"],
  [new URL("http://other.example/live"), undefined, "ws://other.example/live"],
];
for (const [url, location, expected] of table) {
  test(`${url} at ${location} is ${expected}`, () => assert.equal(address(url, location), expected));
}

const refused = [
  ["/live", undefined],
  ["/live", "file:///home/page.html"],
  ["/live", "about:blank"],
  ["ftp://app.example/live", undefined],
  ["http://", undefined],
];
for (const [url, location] of refused) {
  test(`${url} at ${location} is refused`, () => {
    assert.throws(() => address(url, location), { name: "TypeError", message: /live: .* give a full one/ });
  });
}

test("without any WebSocket the client says what to do", (t) => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  t.after(() => WebSocket && (globalThis.WebSocket = WebSocket));
  assert.throws(() => connect("ws://server/live"), { name: "TypeError", message: /options\.WebSocket/ });
});

test("the global WebSocket is the default", (t) => {
  const { WebSocket } = globalThis;
  globalThis.WebSocket = FakeSocket;
  t.after(() => (WebSocket ? (globalThis.WebSocket = WebSocket) : delete globalThis.WebSocket));
  const live = connect("ws://server/live", { WebSocket: undefined });
  outside.clients.push(live);
  assert.equal(live.state, "connecting");
});
