// The caller's arguments are sent unchanged, or refused.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inspect } from "node:util";
import { connect } from "../live.js";
import { codeOf, FakeSocket, setUp, settled, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const LONE = ["\ud800", "a\udc00b", "\udc00\ud800", "🔑\ud83d"];

/** The address that the WebSocket is made with. */
async function dialled(url, options) {
  let address;
  class WebSocket extends FakeSocket {
    constructor(full) {
      super(full);
      address = full;
    }
  }
  outside.clients.push(connect(url, { WebSocket, ...options }));
  await settled();
  return address;
}

describe("an address", () => {
  for (const [url, expected] of [
    ["ws://user:pass%20word@server/live", "ws://user:pass%20word@server/live"],
    ["https://user@server:8443/live", "wss://user@server:8443/live"],
    ["http://server:443/live", "ws://server:443/live"],
    ["wss://[::1]:9000/", "wss://[::1]:9000/"],
    ["WSS://server/live?a=1&a=2&b=x+y%20z&c", "wss://server/live?a=1&a=2&b=x+y%20z&c"],
    ["ws://server/a%2Fb/%C3%BC?q=%2B", "ws://server/a%2Fb/%C3%BC?q=%2B"],
    ["ws://server/live#part", "ws://server/live"],
  ]) {
    test(`${url} is dialled as ${expected}`, async () => {
      assert.equal(await dialled(url), expected);
      assert.equal(await dialled(url, { query: "" }), expected);
      assert.equal(await dialled(url, { query: {} }), expected);
      assert.equal(await dialled(url, { query: () => new URLSearchParams() }), expected);
    });
  }

  for (const url of ["httpx://server/", "wsss://server/", "localhost:8080/live", "javascript:1", "blob:http://server/1", "data:,x", "", ...LONE]) {
    test(`${JSON.stringify(url)} is refused`, () => {
      assert.throws(() => connect(url, { WebSocket: FakeSocket }), { name: "TypeError", message: /^live: / });
    });
  }
});

describe("a query", () => {
  for (const [query, expected] of [
    ["a=1&a=2", "a=1&a=2"],
    ["?a=1&a=2", "a=1&a=2"],
    ["a=x+y&b=x%20y&c=%2B&d=%2f&e=~!*()", "a=x+y&b=x%20y&c=%2B&d=%2f&e=~!*()"],
    ["flag", "flag"],
    ["a=b=c&&d", "a=b=c&&d"],
    [[["a", "1"], ["a", "2"], ["b", "+"]], "a=1&a=2&b=%2B"],
    [new URLSearchParams("a=1&a=2&b=x+y"), "a=1&a=2&b=x+y"],
    [new Map([["a", "ü"]]), "a=%C3%BC"],
    [{ a: "1", b: "x y", c: "+&=" }, "a=1&b=x+y&c=%2B%26%3D"],
    [{ a: null, b: "1" }, "b=1"],
    [Object.assign(Object.create(null), { a: "🔑" }), "a=%F0%9F%94%91"],
  ]) {
    test(`of ${inspect(query)} is ${expected}`, async () => {
      assert.equal(await dialled("ws://server/live", { query }), `ws://server/live?${expected}`);
      assert.equal(await dialled("ws://server/live", { query: async () => query }), `ws://server/live?${expected}`);
      assert.equal(await dialled("ws://server/live?own=%7Eb+c", { query }), `ws://server/live?own=%7Eb+c&${expected}`);
    });
  }

  for (const [own, query, expected] of [
    ["v=1&room=7&v=2", "v=3&v=4", "room=7&v=3&v=4"],
    ["a%20b=1&c=2", { "a b": "3" }, "c=2&a+b=3"],
    ["r%C3%B6=1&x=2", "rö=3", "x=2&r%C3%B6=3"],
    ["v=1", { v: "2" }, "v=2"],
  ]) {
    test(`replaces what has the same name: ${own} and ${JSON.stringify(query)}`, async () => {
      assert.equal(await dialled(`ws://server/live?${own}`, { query }), `ws://server/live?${expected}`);
    });
  }

  const odd = [7, false, 1n, Symbol("s"), { a: ["1", "2"] }, { a: {} }, { a: Symbol("s") }, { a: () => 1 }, [["a"]], [["a", "b", "c"]], ["ab=1"], ...LONE.map((a) => ({ a })), ...LONE, [["a", LONE[0]]]];
  for (const query of odd) {
    test(`of ${inspect(query)} is refused`, async () => {
      assert.throws(() => dialledNow({ query }), TypeError);
      const client = start(outside, { query: () => query });
      await settled();
      assert.ok(client.last("error") instanceof TypeError);
      assert.deepEqual([client.live.state, client.sockets.length], ["waiting", 0]);
    });
  }
});

const dialledNow = (options) => outside.clients.push(connect("ws://server/live", { WebSocket: FakeSocket, ...options }));

describe("a token", () => {
  for (const token of [7, 0, false, {}, ["a"], 1n, Promise.resolve("t"), ...LONE]) {
    test(`${inspect(token)} is refused`, async () => {
      assert.throws(() => dialledNow({ token }), { name: "TypeError", message: /token/ });
      assert.equal(outside.clock.timers, 0);
      if (token instanceof Promise) return; // a function may return one
      const client = start(outside, { token: () => token });
      await settled();
      assert.ok(client.last("error") instanceof TypeError);
      assert.equal(client.sockets.length, 0);
    });
  }
});

describe("a topic", () => {
  for (const topic of [undefined, null, 7, {}, ["a"], Symbol("s"), ...LONE]) {
    test(`${inspect(topic)} is refused everywhere`, async () => {
      for (const client of [startV1(outside), startOpen(outside), start(outside)]) {
        const { live } = client;
        for (const call of [() => live.send(topic, 1), () => live.subscribe(topic, () => {}), () => live.listen(topic, () => {})]) {
          assert.throws(call, { name: "TypeError", message: /topic/ });
        }
        for (const call of [live.publish(topic, 1), live.request(topic, 1), live.history(topic)]) {
          await assert.rejects(call, TypeError);
        }
        if (client.socket.readyState === 0) client.socket.greet();
        assert.deepEqual(client.socket.sent, []);
        assert.ok(outside.clock.timers <= 3);
      }
    });
  }

  test("may have any other character", () => {
    const client = startV1(outside);
    for (const topic of ["", "🔑", "\u0000", "\ufffd", "ﷺ\u200d", '"\\']) {
      client.live.send(topic, 1);
      assert.equal(client.socket.sent.at(-1).topic, topic);
    }
  });
});

describe("data", () => {
  const circle = {};
  circle.self = circle;
  const odd = {
    function: () => 1,
    symbol: Symbol("s"),
    bigint: 1n,
    NaN: NaN,
    Infinity: Infinity,
    "-Infinity": -Infinity,
    circle,
    "an object with a function": { a: { b() {} } },
    "an array with a symbol": [[Symbol("s")]],
    "an array with NaN": [1, [NaN]],
    "an object with infinity": { a: -Infinity },
    "a toJSON that is NaN": { toJSON: () => NaN },
    "a toJSON that throws": {
      toJSON() {
        throw new TypeError("mine");
      },
    },
  };
  for (const [name, data] of Object.entries(odd)) {
    test(`that JSON cannot say is refused: ${name}`, async () => {
      for (const client of [startV1(outside), startOpen(outside), start(outside)]) {
        assert.throws(() => client.live.send("a", data), TypeError);
        await assert.rejects(client.live.publish("a", data), TypeError);
        await assert.rejects(client.live.request("a", data), TypeError);
        if (client.socket.readyState === 0) client.socket.greet();
        assert.deepEqual(client.socket.sent, []);
      }
    });
  }

  for (const data of [0, -1.5e300, "", "\ud800", "NaN", "Infinity", ["Infinity", "-Infinity"], false, null, [], {}, [null], { a: { b: [true] } }, "ü☃🔑\u2028"]) {
    test(`arrives as it is: ${JSON.stringify(data)}`, () => {
      const client = startV1(outside);
      client.live.send("a", data);
      codeOf(client.live.publish("a", data));
      assert.deepEqual(client.socket.sent.map((frame) => frame.data), [data, data]);
    });
  }

  test("leaves out members that are undefined, and is null where it is undefined itself", () => {
    const client = startV1(outside);
    client.live.send("a", { b: undefined, c: new Date(0) });
    client.live.send("a", undefined);
    assert.deepEqual(client.socket.sent.map(({ data }) => data), [{ c: "1970-01-01T00:00:00.000Z" }, null]);
  });

  test("that the application's words cannot carry is an error, too", async () => {
    const client = startOpen(outside, { publishMessage: () => ({ topic: "say", data: NaN }), subscribeMessage: () => ({ topic: "\ud800" }) });
    await assert.rejects(client.live.publish("a", 1), TypeError);
    client.live.subscribe("a", () => {});
    assert.ok(client.last("error") instanceof TypeError);
    assert.deepEqual(client.socket.sent, []);
  });
});

describe("a number", () => {
  const ODD = [0, -1, -Infinity, NaN, Infinity, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 1e300, "5000", "soon", ""];
  const NAMES = ["stableAfter", "connectTimeout", "maxBuffered", "maxUnsent", "min", "max"];

  for (const name of NAMES) {
    for (const value of ODD) {
      if (name === "connectTimeout" && +value === 0) continue; // it is given no time
      if (name === "max" && value < 0) continue; // is below min
      test(`of ${inspect(value)} as ${name} leaves a client that dials, serves and retries`, async () => {
        const times = name === "min" ? { min: value, max: Infinity } : { min: 0, [name]: value };
        const client = start(outside, { backoff: NAMES.indexOf(name) > 3 ? times : undefined, [name]: value });
        for (let round = 1; round < 4; round++) {
          assert.equal(client.sockets.length, round);
          client.socket.greet();
          client.live.subscribe("a", () => {});
          const answer = client.live.request("a");
          client.socket.reply("request", "a", { data: round });
          assert.equal(await answer, round);
          client.socket.end();
          assert.equal(client.live.state, "waiting");
          assert.ok(client.live.retryIn >= 0, `${client.live.retryIn}`);
          assert.equal(client.last("state").retryIn, client.live.retryIn);
          if (client.live.retryIn > 60_000) client.live.reconnect();
          else outside.clock.advance(client.live.retryIn);
        }
        assert.deepEqual(client.all("error"), []);
      });
    }
  }

  for (const [connectTimeout, ms] of [[Infinity, 3_600_000], [2 ** 32, 3_600_000], [2 ** 31, 3_600_000], [NaN, 4_999], ["soon", 4_999], ["5000", 4_999]]) {
    test(`of ${inspect(connectTimeout)} as connectTimeout gives a dial its time`, () => {
      const client = start(outside, { connectTimeout });
      outside.clock.advance(ms);
      assert.deepEqual([client.live.state, client.sockets.length], ["connecting", 1]);
    });
  }

  for (const timeout of [2 ** 31, 2 ** 32, Infinity]) {
    test(`of ${timeout} as a call's timeout is no limit`, async () => {
      const client = start(outside);
      const answer = client.live.request("a", 1, { timeout });
      outside.clock.advance(9_000);
      client.socket.greet();
      client.socket.reply("request", "a", { data: "at last" });
      assert.equal(await answer, "at last");
    });
  }

  for (const timeout of [0, -1, -Infinity, NaN, "soon"]) {
    test(`of ${inspect(timeout)} as a call's timeout ends it`, async () => {
      const client = startV1(outside);
      outside.clock.restore();
      assert.equal(await codeOf(client.live.request("a", 1, { timeout })), "timeout");
    });
  }

  for (const value of ODD) {
    test(`of ${inspect(value)} as last, or as the limit of a history, ends in an answer or an error`, async () => {
      const client = startV1(outside);
      const codes = [codeOf(client.live.subscribe("a", () => {}, { last: value }).ready), codeOf(client.live.history("b", value))];
      for (const { id } of client.socket.heard()) client.socket.sayFrame({ op: "reply", id });
      for (const code of await Promise.all(codes)) assert.ok([undefined, "none"].includes(code), code);
    });
  }

  test("that JSON does not have, as last, refuses the subscription", async () => {
    const client = startV1(outside);
    const ready = client.live.subscribe("a", () => {}, { last: 5n }).ready;
    await assert.rejects(ready, TypeError);
    assert.ok(client.last("error") instanceof TypeError);
    client.live.subscribe("a", () => {});
    client.socket.reply("subscribe", "a");
  });
});

describe("options that exclude each other", () => {
  for (const options of [
    { plain: true, token: "t" },
    { plain: true, token: () => null },
    { backoff: { min: 2, max: 1 } },
    { backoff: { min: 30_000 } },
  ]) {
    test(`are refused at once: ${JSON.stringify(options)}`, () => {
      assert.throws(() => dialledNow(options), { name: "TypeError", message: /^live: / });
      assert.equal(outside.clock.timers, 0);
    });
  }

  for (const options of [
    { plain: true, token: "" },
    { plain: true, token: null },
    { plain: false, token: "t" },
    { backoff: { min: 0, max: 0 } },
    { backoff: { max: 10 } },
    { backoff: { min: 20_000 } },
  ]) {
    test(`are not these: ${JSON.stringify(options)}`, () => dialledNow(options));
  }

  test("of a plain client and a subscription are refused at once, connected or not", () => {
    for (const client of [start(outside, { plain: true }), startOpen(outside, { plain: true })]) {
      for (const options of [{ since: "e.1" }, { last: 1 }, { since: "e.1", last: 1 }]) {
        assert.throws(() => client.live.subscribe("a", () => {}, options), TypeError);
      }
      client.live.subscribe("b", () => {}, { last: 0 })();
      if (client.socket.readyState === 0) client.socket.accept();
      assert.ok(client.socket.sent.every(({ data }) => data.topic === "b"));
    }
  });

  test("what a plain client cannot ask is told at once, without a connection", async () => {
    const { live } = start(outside, { plain: true });
    for (const call of [live.request("a"), live.history("a")]) assert.equal(await codeOf(call), "unsupported");
    assert.equal(outside.clock.timers, 1);
  });
});
