// A server that sends nonsense. None of its frames ends the client, or leaves a promise pending for ever.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { reconnect, setUp, settled, startV1 } from "./fakes.mjs";

const outside = setUp();

const OPS = ["hello", "reply", "part", "error", "gap", "drain", "ping", "new", 5, undefined];
const MEMBERS = ["id", "topic", "at", "data", "messages", "text", "more", "recovered", "code", "message", "session", "ping", "largest", "within"];
const VALUES = [
  null, true, 0, 1, -1, 1e300, "", "5000", [], [null], [5], [{}], {}, { valueOf: 1, toString: 1 }, { then: 1 }, { constructor: null, op: "reply" },
];

/** A client that waits for everything: an answer of each kind, and the reply to a subscription. Ids 1 to 5. */
function busy() {
  const client = startV1(outside);
  const told = [];
  const promises = [
    client.live.subscribe("a", (data) => told.push(data), { since: "e.1", onGap: () => {} }).ready,
    client.live.subscribe("b", (data) => told.push(data)).ready,
    client.live.publish("a", 1),
    client.live.request("a", 1),
    client.live.history("a"),
  ];
  const pending = new Set(promises);
  for (const promise of promises) promise.then(() => pending.delete(promise), () => pending.delete(promise));
  return { client, pending };
}

/** Checks that the client still hears, asks, retries, and ends as it should. */
async function lives({ client, pending }, frame) {
  const said = () => `after ${JSON.stringify(frame)}`;
  const { live } = client;
  assert.equal(live.state, "open", said());
  assert.ok(outside.clock.timers > 0, said());
  const heard = [];
  live.listen("z", (data) => heard.push(data));
  client.socket.say("z", 1);
  assert.deepEqual(heard, [1], said());
  reconnect(outside, client);
  assert.equal(live.state, "open", said());
  const answer = live.request("z", 1);
  client.socket.reply("request", "z", { data: 2 });
  assert.equal(await answer, 2, said());
  for (const { op, id } of client.socket.heard()) if (op === "subscribe" || op === "publish") client.socket.sayFrame({ op: "reply", id });
  await settled();
  assert.equal(pending.size, 0, said());
  live.close();
}

describe("no frame ends the client, nor leaves a promise unsettled:", () => {
  for (const op of OPS) {
    test(`op ${JSON.stringify(op)}`, async () => {
      for (const name of MEMBERS) {
        for (const value of VALUES) {
          for (const more of [{ topic: "a" }, { id: 1 }, { id: 2, topic: "b" }, { id: 5 }]) {
            const frame = { op, ...more, [name]: value };
            const state = busy();
            state.client.socket.sayFrame(frame);
            await lives(state, frame);
          }
        }
      }
    });
  }

  test("whole frames of every JSON type", async () => {
    for (const value of VALUES) {
      for (const frame of [value, [value], { op: value }, { topic: value }]) {
        const state = busy();
        state.client.socket.sayFrame(frame);
        await lives(state, frame);
      }
    }
  });

  test("many at once, drawn by lot", async () => {
    let seed = 1;
    const draw = (from) => from[(seed = (seed * 48_271) % 2_147_483_647) % from.length];
    for (let round = 0; round < 300; round++) {
      const state = busy();
      const frames = [];
      for (let i = 0; i < 10; i++) {
        const frame = { op: draw(OPS), id: draw([1, 2, 3, 4, 5, 6, undefined]), topic: draw(["a", "b", undefined]) };
        for (let n = 0; n < 3; n++) frame[draw(MEMBERS)] = draw(VALUES);
        frames.push(frame);
        state.client.socket.sayFrame(frame);
      }
      await lives(state, frames);
    }
  });
});

describe("an answer that cannot be used", () => {
  for (const frame of [{ op: "reply", messages: 5 }, { op: "reply", messages: {} }, { op: "error", message: { toString: 1 } }]) {
    test(`is bad_message for a subscription: ${JSON.stringify(frame)}`, async () => {
      const client = startV1(outside);
      const { ready } = client.live.subscribe("a", () => {});
      client.socket.sayFrame({ ...frame, id: 1 });
      await assert.rejects(ready, { name: "LiveError", code: "bad_message", topic: "a" });
      assert.equal(client.last("error").code, "bad_message");
    });
  }

  test("is reported if nobody waits for it", () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "drain", within: { valueOf: 1, toString: 1 } });
    client.socket.sayFrame({ op: "hello", ping: { valueOf: 1, toString: 1 } });
    assert.deepEqual(client.all("error").map(({ code }) => code), ["bad_message", "bad_message"]);
    client.socket.end();
    assert.deepEqual([client.live.state, client.live.retryIn], ["waiting", 500]);
  });
});
