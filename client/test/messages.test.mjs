// What is sent, what is heard, and by whom.
import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";
import { LiveError } from "../live.js";
import { reconnect, setUp, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();
const ask = (verb, topic) => ({ topic: verb, data: { topic } });

describe("send", () => {
  test("hands the message to an open socket", () => {
    const client = startOpen(outside);
    assert.equal(client.live.send("chat", { text: "hi" }), true);
    assert.deepEqual(client.socket.sent, [{ topic: "chat", data: { text: "hi" } }]);
  });

  test("keeps it while there is no connection, as it was at that moment, in order", () => {
    const client = start(outside);
    const data = { n: 1 };
    assert.equal(client.live.send("chat", data), false);
    data.n = 99;
    assert.equal(client.live.send("chat", { n: 2 }), false);
    client.socket.end();
    assert.equal(client.live.send("chat", { n: 3 }), false);
    outside.clock.advance(500);
    client.socket.accept();
    client.live.send("chat", { n: 4 });
    assert.deepEqual(client.socket.sent.map((m) => m.data.n), [1, 2, 3, 4]);
  });

  test("sends what waited once", () => {
    const client = start(outside);
    client.live.send("chat", 1);
    client.socket.accept();
    client.socket.end();
    outside.clock.advance(500);
    client.socket.accept();
    assert.deepEqual(client.socket.sent, []);
  });

  test("overtakes nothing that waits, not even from inside an option's function", () => {
    const client = start(outside, {
      subscribeMessage: () => {
        client.live.send("chat", 2);
        return null;
      },
    });
    client.live.subscribe("a", () => {});
    client.live.send("chat", 1);
    client.socket.accept();
    assert.deepEqual(client.socket.sent.map((m) => m.data), [1, 2]);
  });

  test("trusts no socket that is closing already", () => {
    const client = startOpen(outside);
    client.socket.readyState = 2;
    assert.equal(client.live.state, "open");
    assert.equal(client.live.send("chat", 1), false);
    client.socket.end();
    outside.clock.advance(500);
    client.socket.accept();
    assert.deepEqual(client.socket.sent, [{ topic: "chat", data: 1 }]);
  });

  test("says so when the buffer is full, and keeps what it has", () => {
    const client = start(outside);
    for (let i = 0; i < 64; i++) client.live.send("chat", i);
    const full = (err) => err instanceof LiveError && err.code === "buffer_full" && /64/.test(err.message);
    assert.throws(() => client.live.send("chat", 64), full);
    client.socket.accept();
    assert.deepEqual(client.socket.sent.map((m) => m.data), Array.from({ length: 64 }, (_, i) => i));
    assert.equal(client.live.send("chat", 64), true);
  });

  test("keeps nothing where maxBuffered is 0", () => {
    const client = start(outside, { maxBuffered: 0 });
    assert.throws(() => client.live.send("chat", 1), { name: "LiveError", code: "buffer_full" });
    client.socket.accept();
    assert.equal(client.live.send("chat", 1), true);
  });

  test("throws on a closed client", () => {
    const client = startOpen(outside);
    client.live.close();
    assert.throws(() => client.live.send("chat", 1), { name: "LiveError", code: "closed" });
    assert.throws(() => client.live.subscribe("chat", () => {}), { name: "LiveError", code: "closed" });
  });

  test("throws what JSON cannot say, and what is no topic, to the caller", () => {
    const client = start(outside);
    assert.throws(() => client.live.send("chat", 1n), TypeError);
    assert.throws(() => client.live.send(undefined, 1), TypeError);
    client.socket.accept();
    assert.deepEqual(client.socket.sent, []);
  });

  test("always sends both members", () => {
    const client = startOpen(outside);
    for (const data of [undefined, null, 0, "", false]) client.live.send("chat", data);
    assert.deepEqual(client.socket.sent.map((m) => m.data), [null, null, 0, "", false]);
  });
});

describe("publish", () => {
  test("goes through the application", async () => {
    const client = startOpen(outside);
    assert.equal(await client.live.publish("news", [1]), undefined);
    assert.deepEqual(client.socket.sent, [{ topic: "publish", data: { topic: "news", data: [1] } }]);
  });

  test("in the application's own words", () => {
    const client = startOpen(outside, { publishMessage: (topic, data) => ({ topic: `pub:${topic}`, data }) });
    client.live.publish("news", 7);
    assert.deepEqual(client.socket.sent, [{ topic: "pub:news", data: 7 }]);
  });

  test("waits for the connection as send does, as it was at that moment, in order", async () => {
    const client = start(outside);
    const data = { n: 1 };
    const published = client.live.publish("news", data);
    data.n = 99;
    client.live.send("chat", 2);
    client.socket.accept();
    await published;
    assert.deepEqual(client.socket.sent, [{ topic: "publish", data: { topic: "news", data: { n: 1 } } }, { topic: "chat", data: 2 }]);
    assert.equal(outside.clock.timers, 0);
  });

  test("fails with what its option's function throws", async () => {
    const client = startOpen(outside, {
      publishMessage: () => {
        throw new Error("no word");
      },
    });
    await assert.rejects(client.live.publish("news", 1), /no word/);
    assert.deepEqual(client.all("error"), []);
  });
});

describe("subscribe", () => {
  test("tells the server once, however many callers there are", () => {
    const client = startOpen(outside);
    const off = [1, 2, 3].map(() => client.live.subscribe("news", () => {}));
    assert.deepEqual(client.socket.sent, [ask("subscribe", "news")]);
    off[0]();
    off[0]();
    off[1]();
    assert.equal(client.socket.sent.length, 1);
    off[2]();
    off[2]();
    assert.deepEqual(client.socket.sent, [ask("subscribe", "news"), ask("unsubscribe", "news")]);
  });

  test("counts the same function as often as it was given", () => {
    const client = startOpen(outside);
    let calls = 0;
    const fn = () => calls++;
    const off = client.live.subscribe("news", fn);
    client.live.subscribe("news", fn);
    client.socket.say("news", 1);
    assert.equal(calls, 2);
    off();
    client.socket.say("news", 2);
    assert.equal(calls, 3);
    assert.deepEqual(client.socket.sent, [ask("subscribe", "news")]);
  });

  test("an old unsubscribe does not touch a later subscription", () => {
    const client = startOpen(outside);
    const off = client.live.subscribe("news", () => {});
    off();
    const told = [];
    client.live.subscribe("news", (data) => told.push(data));
    off();
    client.socket.say("news", 1);
    assert.deepEqual(told, [1]);
    assert.deepEqual(client.socket.sent.map((m) => m.topic), ["subscribe", "unsubscribe", "subscribe"]);
  });

  test("is repeated after each connect, once a topic, before what waited", () => {
    const client = start(outside);
    client.live.send("chat", "first");
    client.live.subscribe("a", () => {});
    client.live.subscribe("a", () => {});
    client.live.subscribe("b", () => {});
    const gone = client.live.subscribe("c", () => {});
    client.socket.accept();
    const expected = [ask("subscribe", "a"), ask("subscribe", "b"), ask("subscribe", "c"), { topic: "chat", data: "first" }];
    assert.deepEqual(client.socket.sent, expected);

    client.socket.end();
    gone();
    client.live.subscribe("d", () => {});
    client.live.send("chat", "second");
    outside.clock.advance(500);
    client.socket.accept();
    assert.deepEqual(client.socket.sent, [
      ask("subscribe", "a"),
      ask("subscribe", "b"),
      ask("subscribe", "d"),
      { topic: "chat", data: "second" },
    ]);
  });

  test("has told the server before the page hears that the connection stands", () => {
    const client = start(outside);
    client.live.subscribe("a", () => {});
    client.live.send("chat", 1);
    const atOpen = [];
    client.live.on("state", () => atOpen.push(client.socket.sent.length));
    client.live.on("open", () => atOpen.push(client.socket.sent.length));
    client.socket.accept();
    assert.deepEqual(atOpen, [2, 2]);
  });

  test("speaks the application's own words, or not at all", () => {
    const client = startOpen(outside, {
      subscribeMessage: (topic) => (topic === "quiet" ? null : { topic: "join", data: topic }),
      unsubscribeMessage: () => null,
    });
    const told = [];
    const off = client.live.subscribe("quiet", (data) => told.push(data));
    client.live.subscribe("room", () => {});
    client.socket.say("quiet", 1);
    off();
    assert.deepEqual(client.socket.sent, [{ topic: "join", data: "room" }]);
    assert.deepEqual(told, [1]);
  });

  test("a word that cannot be found is reported and stops no other topic", () => {
    const client = start(outside, {
      subscribeMessage: (topic) => {
        if (topic === "bad") throw new Error("no word");
        return { topic: "join", data: topic };
      },
    });
    client.live.subscribe("bad", () => {});
    client.live.subscribe("good", () => {});
    client.socket.accept();
    assert.deepEqual(client.socket.sent, [{ topic: "join", data: "good" }]);
    assert.match(client.last("error").message, /no word/);
    assert.equal(client.live.state, "open");
  });

  test("gives each message to its topic alone, with the data and the whole", () => {
    const client = startOpen(outside);
    const told = [];
    client.live.subscribe("a", (...args) => told.push(["a", ...args]));
    client.live.subscribe("b", (...args) => told.push(["b", ...args]));
    client.socket.say("a", { n: 1 });
    client.socket.say("c", 2);
    assert.deepEqual(told, [["a", { n: 1 }, { topic: "a", data: { n: 1 } }]]);
    assert.deepEqual(client.heard, [
      ["message", { topic: "a", data: { n: 1 } }],
      ["message", { topic: "c", data: 2 }],
    ]);
  });

  test("who left during a message does not hear it, who came hears the next", () => {
    const client = startOpen(outside);
    const told = [];
    const off = [];
    client.live.subscribe("a", (n) => {
      told.push(`first ${n}`);
      off[0]();
      if (n === 1) client.live.subscribe("a", (m) => told.push(`late ${m}`));
    });
    off.push(client.live.subscribe("a", (n) => told.push(`left ${n}`)));
    client.socket.say("a", 1);
    client.socket.say("a", 2);
    assert.deepEqual(told, ["first 1", "first 2", "late 2"]);
  });
});

describe("a listener that fails", () => {
  test("stops no other, and is reported", async () => {
    const client = startOpen(outside);
    const told = [];
    client.live.on("message", () => {
      throw new Error("one");
    });
    client.live.subscribe("a", () => {
      throw new Error("two");
    });
    client.live.subscribe("a", async () => {
      throw new Error("three");
    });
    client.live.subscribe("a", (data) => told.push(data));
    client.socket.say("a", 1);
    client.socket.say("a", 2);
    await Promise.resolve().then(() => {});
    assert.deepEqual(told, [1, 2]);
    const errors = client.heard.filter(([name]) => name === "error").map(([, err]) => err.message);
    assert.deepEqual(errors.sort(), ["one", "one", "three", "three", "two", "two"]);
  });

  test("stops no reconnect", () => {
    const client = start(outside);
    for (const name of ["state", "open", "close"]) {
      client.live.on(name, () => {
        throw new Error(name);
      });
    }
    client.socket.accept();
    client.socket.end();
    outside.clock.advance(500);
    client.socket.accept();
    assert.equal(client.live.state, "open");
  });

  test("goes to the console where nobody listens to errors, and so does a failing error listener", (t) => {
    const console = t.mock.method(globalThis.console, "error", () => {});
    const client = startOpen(outside);
    const off = client.live.on("error", () => {
      throw new Error("worse");
    });
    client.live.subscribe("a", () => {
      throw new Error("bad");
    });
    client.socket.say("a", 1);
    assert.deepEqual(console.mock.calls.map((call) => call.arguments[0].message), ["worse"]);
    off();
  });

  test("prefers reportError where there is one", () => {
    globalThis.reportError = mock.fn();
    try {
      const client = startOpen(outside);
      client.live.on("error", () => {
        throw new Error("worse");
      });
      client.socket.sayRaw("{");
      assert.equal(globalThis.reportError.mock.calls[0].arguments[0].message, "worse");
    } finally {
      delete globalThis.reportError;
    }
  });
});

test("a frame that is not a message is reported and does no harm", () => {
  const client = startOpen(outside);
  const frames = ["", "{", "null", "1", "[]", "{}", '{"topic":1}', '{"data":1}', new ArrayBuffer(3)];
  for (const frame of frames) client.socket.sayRaw(frame);
  assert.equal(client.heard.length, frames.length);
  for (const [name, err] of client.heard) assert.deepEqual([name, err.code], ["error", "bad_message"]);
  client.socket.say("a", 1);
  assert.deepEqual(client.last("message"), { topic: "a", data: 1 });
});

const ODD = ["", "__proto__", "constructor", "état/☃", "message", "error", "finish"];

test("topics may be called anything", () => {
  const client = startOpen(outside);
  const told = [];
  for (const topic of ODD) {
    client.live.subscribe(topic, (data) => told.push(data));
    client.socket.say(topic, topic);
  }
  assert.deepEqual(told, ODD);
});

test("topics of live.v1 may be called anything", async () => {
  const client = startV1(outside);
  const told = [];
  const tell = (data) => told.push(data);
  for (const topic of ODD) client.live.subscribe(topic, tell, { onGap: (gap) => tell(gap.topic) });
  for (const topic of ODD) client.socket.reply("subscribe", topic, { at: "e.1" });
  reconnect(outside, client);
  for (const topic of ODD) {
    client.socket.reply("subscribe", topic, { at: "e.2", recovered: true, messages: [{ data: topic, at: "e.2" }] });
    client.socket.sayFrame({ op: "gap", topic });
    const answer = client.live.request(topic);
    client.socket.reply("request", topic, { data: topic });
    assert.equal(await answer, topic);
  }
  assert.deepEqual(told, ODD.flatMap((topic) => [topic, topic]));
  assert.ok(client.socket.sent.flat().filter(({ op }) => op === "subscribe").every(({ since }) => since === "e.1"));
  assert.deepEqual(client.all("error"), []);
});

test("on() is ended by what it returns", () => {
  const client = startOpen(outside);
  const told = [];
  const off = client.live.on("message", (message) => told.push(message.data));
  client.socket.say("a", 1);
  off();
  off();
  client.socket.say("a", 2);
  assert.deepEqual(told, [1]);
});
