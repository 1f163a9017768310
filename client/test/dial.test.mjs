// The token and the query of each dial. They may come from functions that take their time.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { afterEach, beforeEach, describe, test } from "node:test";
import { connect } from "../live.js";
import { FakeSocket, setUp, settled, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();

/** A function whose promise a test settles. */
function asked() {
  const calls = [];
  const fn = () => new Promise((answer, fail) => calls.push({ answer, fail }));
  return { fn, calls, answer: (value) => calls.at(-1).answer(value), fail: (err) => calls.at(-1).fail(err) };
}

const offered = (client) => client.sockets.map(({ protocols }) => protocols.slice(1));

describe("the token", () => {
  for (const [token, name] of [
    ["secret", "live.token.c2VjcmV0"],
    ["a", "live.token.YQ"],
    ["ÿþ~?>", "live.token.w7_Dvn4_Pg"],
    ["schlüssel ☃ 🔑", "live.token.c2NobMO8c3NlbCDimIMg8J-UkQ"],
  ]) {
    test(`${token} travels as ${name}`, async () => {
      const client = start(outside, { token });
      await settled();
      assert.deepEqual(client.socket.protocols, ["live.v1", name]);
      assert.equal(Buffer.from(name.slice(11), "base64url").toString(), token);
      assert.match(name, /^[!#$%&'*+\-.0-9A-Z^_`|a-z~]+$/, "what a subprotocol may be made of");
    });
  }

  for (const none of [undefined, null, "", () => null, async () => undefined]) {
    test(`${none} is none`, async () => {
      const client = start(outside, { token: none });
      await settled();
      assert.deepEqual(client.socket.protocols, ["live.v1"]);
    });
  }

  test("is asked for before each dial, and awaited", async () => {
    let n = 0;
    const client = start(outside, { token: async () => `t${++n}` });
    assert.equal(client.sockets.length, 0);
    assert.equal(client.live.state, "connecting");
    for (let i = 1; i <= 3; i++) {
      await settled();
      assert.equal(client.sockets.length, i);
      client.socket.end();
      outside.clock.advance(client.live.retryIn);
    }
    await settled();
    const tokens = offered(client).map(([name]) => Buffer.from(name.slice(11), "base64url").toString());
    assert.deepEqual(tokens, ["t1", "t2", "t3", "t4"]);
  });

  test("is fetched anew within a second after a close in the range of 4200", async () => {
    let n = 0;
    const client = start(outside, { token: () => `t${++n}` });
    await settled();
    client.socket.greet();
    client.socket.end(4200, "expired");
    assert.equal(client.last("state").retryIn, 1_000);
    outside.clock.advance(1_000);
    await settled();
    assert.deepEqual(offered(client), [["live.token.dDE"], ["live.token.dDI"]]);
  });

  for (const [how, token] of [
    ["rejects", () => Promise.reject(new Error("no token"))],
    ["throws", () => {
      throw new Error("no token");
    }],
  ]) {
    test(`whose function ${how} is a failed attempt, reported, with backoff`, async () => {
      const client = start(outside, { token });
      for (const retryIn of [500, 1_000, 2_000]) {
        await settled();
        assert.deepEqual([client.last("state").state, client.last("state").retryIn], ["waiting", retryIn]);
        assert.match(client.last("state").reason, /no token/);
        assert.match(client.last("error").message, /no token/);
        outside.clock.advance(retryIn);
      }
      assert.equal(client.sockets.length, 0);
    });
  }

  test("that never comes is given up with the connection, and is too late then", async () => {
    const token = asked();
    const client = start(outside, { token: token.fn });
    outside.clock.advance(10_000);
    assert.equal(client.last("state").reason, "connect timeout");
    token.answer("late");
    await settled();
    assert.equal(client.sockets.length, 0);
    outside.clock.advance(500);
    token.answer("next");
    await settled();
    assert.deepEqual(offered(client), [["live.token.bmV4dA"]]);
  });

  test("that comes when another attempt is under way makes no second socket", async () => {
    const token = asked();
    const client = start(outside, { token: token.fn });
    outside.clock.sleep(60_000);
    outside.page.fire("focus"); // gives the first attempt up, and begins the second
    outside.page.fire("online");
    assert.equal(token.calls.length, 2);
    token.calls[0].answer("first");
    await settled();
    assert.equal(client.sockets.length, 0);
    token.calls[1].answer("second");
    await settled();
    assert.equal(client.sockets.length, 1);
    client.socket.greet();
    assert.equal(client.live.state, "open");
  });

  test("that fails when another attempt is under way disturbs it not", async () => {
    const token = asked();
    const client = start(outside, { token: token.fn });
    outside.clock.sleep(60_000);
    client.live.reconnect();
    token.calls[0].fail(new Error("old"));
    await settled();
    assert.equal(client.live.state, "connecting");
    assert.deepEqual(client.all("error"), []);
  });

  test("that calls reconnect() is asked once in each attempt", async () => {
    let calls = 0;
    const client = start(outside, { token: () => (++calls > 1 ? client.live.reconnect() : undefined) });
    await settled();
    client.socket.end();
    for (let attempt = 2; attempt < 4; attempt++) {
      outside.clock.advance(client.live.retryIn);
      await settled();
      assert.deepEqual([calls, client.sockets.length, client.live.state], [attempt, attempt, "connecting"]);
      client.socket.end();
    }
    assert.deepEqual(client.all("error"), []);
  });

  test("that comes, or fails, after close() does nothing", async () => {
    for (const end of ["answer", "fail"]) {
      const token = asked();
      const client = start(outside, { token: token.fn });
      client.live.close();
      token[end]("late");
      await settled();
      assert.deepEqual(client.names(), ["closed"]);
      assert.equal(client.sockets.length, 0);
      assert.equal(outside.clock.timers, 0);
    }
  });

  test("whose function closes the client is the last", async () => {
    const later = {};
    const client = start(outside, { token: () => later.live?.close() });
    later.live = client.live;
    await settled();
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    await settled();
    assert.equal(client.names().at(-1), "closed");
    assert.deepEqual([client.live.state, client.sockets.length, outside.clock.timers], ["closed", 1, 0]);
  });

  test("is given up when the page is cached, and asked for anew when it is back", async () => {
    const token = asked();
    const client = start(outside, { token: token.fn });
    outside.page.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
    assert.equal(client.last("state").reason, "pagehide");
    token.answer("old");
    await settled();
    assert.equal(client.sockets.length, 0);
    outside.page.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
    assert.equal(client.live.state, "waiting");
    outside.page.fire("pageshow");
    token.answer("new");
    await settled();
    assert.deepEqual(offered(client), [["live.token.bmV3"]]);
    client.socket.greet();
    assert.equal(client.live.state, "open");
  });

  test("is no reason to dial twice in two quick wakes", async () => {
    const token = asked();
    const client = start(outside, { token: token.fn });
    token.answer("t");
    await settled();
    client.socket.greet();
    client.socket.end();
    outside.page.fire("focus");
    outside.page.fire("online");
    assert.equal(token.calls.length, 2);
    token.answer("t");
    await settled();
    assert.equal(client.sockets.length, 2);
  });
});

describe("the query", () => {
  for (const [query, expected] of [
    [{ v: "2", who: "ann & bob" }, "ws://server/live?v=2&who=ann+%26+bob"],
    ["?a=1&b=2", "ws://server/live?a=1&b=2"],
    [new URLSearchParams({ a: "ü" }), "ws://server/live?a=%C3%BC"],
    [async () => ({ a: "1" }), "ws://server/live?a=1"],
    [() => null, "ws://server/live"],
    [undefined, "ws://server/live"],
  ]) {
    test(`${typeof query === "object" ? JSON.stringify(query) : query} gives ${expected}`, async () => {
      const client = start(outside, { query });
      await settled();
      assert.equal(client.socket.url, expected);
      assert.equal(client.live.url, "ws://server/live");
    });
  }

  test("is merged into the address's own, replacing what has the same name", async () => {
    const made = [];
    class WebSocket extends FakeSocket {
      constructor(url) {
        super(url);
        made.push(url);
      }
    }
    const live = connect("ws://server/live?v=1&room=7", { WebSocket, query: () => ({ v: "2", token: "t" }) });
    outside.clients.push(live);
    await settled();
    assert.deepEqual(made, ["ws://server/live?room=7&v=2&token=t"]);
    assert.equal(live.url, "ws://server/live?v=1&room=7");
  });

  test("that fails is a failed attempt", async () => {
    const client = start(outside, { query: () => Promise.reject(new Error("no query")) });
    await settled();
    assert.equal(client.live.state, "waiting");
    assert.match(client.last("error").message, /no query/);
  });
});

describe("the option plain", () => {
  test("offers no subprotocol", () => {
    const client = startOpen(outside, { plain: true });
    assert.deepEqual(client.socket.protocols, []);
  });

  test("is what a client falls back to when the server agrees to none", () => {
    const client = startOpen(outside);
    client.live.subscribe("a", () => {});
    assert.deepEqual(client.socket.sent, [{ topic: "subscribe", data: { topic: "a" } }]);
    assert.equal(client.live.session, undefined);
    client.socket.sayFrame({ op: "ping", topic: "a", data: 1 }); // an application's message
    assert.deepEqual(client.last("message"), { op: "ping", topic: "a", data: 1 });
  });

  test("ends when the server has learned to speak live.v1", () => {
    const client = startOpen(outside);
    client.live.subscribe("a", () => {});
    client.socket.end();
    outside.clock.advance(500);
    client.socket.greet();
    assert.deepEqual(client.socket.sent, [[{ op: "subscribe", id: 1, topic: "a" }]]);
  });
});

describe("the client's signal", () => {
  test("closes it", () => {
    const abort = new AbortController();
    const client = startV1(outside, { signal: abort.signal });
    abort.abort();
    assert.equal(client.live.state, "closed");
    assert.deepEqual(client.socket.closedWith, [1000]);
    assert.equal(outside.clock.timers, 0);
  });

  test("that has aborted already makes a closed client, and no socket", () => {
    const client = start(outside, { signal: AbortSignal.abort() });
    assert.equal(client.live.state, "closed");
    assert.equal(client.sockets.length, 0);
    assert.throws(() => client.live.subscribe("a", () => {}), { code: "closed" });
    assert.equal(getEventListeners(outside.page.window, "focus").length, 0);
  });

  test("is left clean by close()", () => {
    const { signal } = new AbortController();
    startV1(outside, { signal }).live.close();
    assert.equal(getEventListeners(signal, "abort").length, 0);
  });
});

// After some failed dials, Firefox delays further ones by up to a minute. A HEAD request, which it does not delay, tells when the server is up.
describe("in Firefox", () => {
  const browser = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const { fetch } = globalThis;
  let heads;
  beforeEach(() => {
    heads = [];
    Object.defineProperty(globalThis, "navigator", { configurable: true, value: { userAgent: "Mozilla/5.0 Gecko/20100101 Firefox/140.0" } });
    globalThis.fetch = (url, options) => new Promise((answer, fail) => heads.push({ url, options, answer, fail }));
  });
  afterEach(() => {
    if (browser) Object.defineProperty(globalThis, "navigator", browser);
    else delete globalThis.navigator;
    globalThis.fetch = fetch;
  });

  const blocked = () => Object.assign(new TypeError("NetworkError"));

  /** A client that was open, and whose HEAD request at that time had this answer. */
  async function stood(answer, options) {
    const client = start(outside, options);
    client.socket.greet();
    assert.equal(heads.length, 1);
    answer(heads.pop());
    await settled();
    return client;
  }

  /** Fails dials until the next one sends a HEAD request first. */
  function failed(client) {
    for (let i = 0; i < 2; i++) {
      client.socket.end(1006);
      outside.clock.advance(client.live.retryIn);
    }
    assert.equal(heads.length, 1);
    return heads.pop();
  }

  const ok = (call) => call.answer({ status: 400 });

  test("the first dials ask nothing", () => {
    const client = start(outside);
    client.socket.end(1006);
    outside.clock.advance(client.live.retryIn);
    assert.deepEqual([heads.length, client.sockets.length], [0, 2]);
  });

  test("the request goes to the server's address, of whatever origin", async () => {
    const client = await stood(ok);
    const { url, options } = failed(client);
    assert.equal(url, "http://server/live");
    assert.deepEqual([options.method, options.mode, options.signal instanceof AbortSignal], ["HEAD", "no-cors", true]);
  });

  test("one answered request is enough", async () => {
    const client = await stood(ok);
    client.socket.end(1006);
    outside.clock.advance(client.live.retryIn);
    client.socket.greet();
    assert.equal(heads.length, 0);
  });

  for (const [what, answer, dials] of [
    ["a server that answers is dialled", ok, 1],
    ["one of another origin, whose status is hidden, too", (call) => call.answer({ status: 0 }), 1],
    ["one that does not answer is not", (call) => call.fail(blocked()), 0],
    ["a proxy's 502 is no server", (call) => call.answer({ status: 502 }), 0],
    ["what hangs says nothing", (call) => call.fail(Object.assign(new Error(), { name: "TimeoutError" })), 1],
  ]) {
    test(what, async () => {
      const client = await stood(ok);
      const call = failed(client);
      const before = client.sockets.length;
      answer(call);
      await settled();
      assert.equal(client.sockets.length - before, dials);
      assert.equal(client.live.state, dials ? "connecting" : "waiting");
    });
  }

  for (const [what, answer] of [
    ["are forbidden by a policy", (call) => call.fail(blocked())],
    ["are answered with 501 by a proxy that knows no HEAD", (call) => call.answer({ status: 501 })],
    ["hang", (call) => call.fail(Object.assign(new Error(), { name: "TimeoutError" }))],
  ]) {
    test(`where requests ${what}, each dial goes on without them`, async () => {
      const client = await stood(answer, { backoff: { min: 1, max: 1 } });
      client.socket.end(1006);
      let requests = 0;
      for (let i = 2; i < 20; i++) {
        outside.clock.advance(client.live.retryIn);
        for (const call of heads.splice(0)) answer(call, ++requests);
        await settled();
        assert.equal(client.sockets.length, i);
        client.socket.end(1006);
      }
      assert.ok(requests > 10, `${requests}`);
    });
  }

  test("a client that never stood believes no failure, and an answer from then on", async () => {
    const client = start(outside);
    failed(client).fail(blocked());
    await settled();
    assert.equal(client.sockets.length, 3);
    client.socket.end(1006);
    outside.clock.advance(client.live.retryIn);
    ok(heads.pop());
    await settled();
    assert.equal(client.sockets.length, 4);
    client.socket.end(1006);
    outside.clock.advance(client.live.retryIn);
    heads.pop().fail(blocked());
    await settled();
    assert.equal(client.sockets.length, 4);
  });

  test("when requests fail that were answered before, some dials do without", async () => {
    const client = await stood(ok, { backoff: { min: 1, max: 1 } });
    client.socket.end(1006);
    let refused = 0;
    for (let i = 0; i < 20; i++) {
      outside.clock.advance(client.live.retryIn);
      const call = heads.pop();
      if (call) call.fail(blocked(), refused++);
      else client.socket.end(1006);
      await settled();
    }
    assert.ok(refused > 10 && client.sockets.length >= 4, `${refused} requests, ${client.sockets.length} dials`);
  });

  test("a request that hangs leaves half of the connect timeout for the dial", (t) => {
    const bounds = [];
    t.mock.method(AbortSignal, "timeout", (ms) => bounds.push(ms) && new AbortController().signal);
    for (const connectTimeout of [undefined, 10_000, 1_500, 600, Infinity, 2 ** 32]) start(outside, { connectTimeout }).socket.greet();
    assert.deepEqual(bounds, [2_000, 2_000, 750, 300, 2_000, 2_000]);
  });

  test("a request that is under way when the client closes dials nothing", async () => {
    const client = await stood(ok);
    const call = failed(client);
    const before = client.sockets.length;
    client.live.close();
    call.answer({ status: 200 });
    await settled();
    assert.equal(client.sockets.length, before);
  });
});

test("other browsers ask nothing", () => {
  const { fetch } = globalThis;
  globalThis.fetch = () => assert.fail("asked");
  try {
    const client = start(outside);
    for (let i = 0; i < 5; i++) {
      client.socket.end(1006);
      outside.clock.advance(client.live.retryIn);
    }
    assert.equal(client.sockets.length, 6);
  } finally {
    globalThis.fetch = fetch;
  }
});
