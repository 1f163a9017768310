// The state of a topic: what takes the place of everything before it.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { reconnect, setUp, start, startV1 } from "./fakes.mjs";

const outside = setUp();

/** Subscribes, and notes what comes: states, data and gaps, in order. */
function follow(client, options = {}) {
  const told = [];
  client.live.on("error", (err) => told.push(`error ${err.code}`));
  const stop = client.live.subscribe("tasks", (data) => told.push(data), {
    onState: (state, at) => told.push(["state", state, at]),
    onGap: () => told.push("gap"),
    ...options,
  });
  return { told, stop };
}

const lastId = (client) => client.socket.sent.flat().at(-1).id;
const asked = (client) => client.socket.sent.flat().filter((frame) => frame.op === "subscribe");

/** Answers the last subscription. */
const answer = (client, more) => client.socket.sayFrame({ op: "reply", id: lastId(client), ...more });
const publish = (client, data, at, more) => client.socket.sayFrame({ topic: "tasks", data, at, ...more });

describe("a topic with a state", () => {
  test("tells the state, then what follows", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    publish(client, "early", "a.1");
    answer(client, { at: "a.2", state: { n: 1 } });
    publish(client, "more", "a.3", { recovered: true });
    publish(client, "new", "a.4");
    assert.deepEqual(told, [["state", { n: 1 }, "a.2"], "more", "new"]);
  });

  test("may have a state that is null, or 0", () => {
    for (const state of [null, 0, ""]) {
      const client = startV1(outside);
      const { told } = follow(client);
      answer(client, { at: "a.2", state });
      assert.deepEqual(told, [["state", state, "a.2"]]);
    }
  });

  test("joins the pieces of a large one", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    const id = lastId(client);
    client.socket.sayFrame({ op: "part", id, text: '{"n":' });
    client.socket.sayFrame({ op: "part", id, text: "[1," });
    assert.deepEqual(told, []);
    client.socket.sayFrame({ op: "reply", id, at: "a.2", text: "2]}" });
    assert.deepEqual(told, [["state", { n: [1, 2] }, "a.2"]]);
  });

  test("forgets pieces of a connection that was lost", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    client.socket.sayFrame({ op: "part", id: lastId(client), text: '{"n":' });
    reconnect(outside, client);
    answer(client, { at: "a.2", text: "[3]" });
    assert.deepEqual(told, [["state", [3], "a.2"]]);
  });

  test("is resumed without a new state", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2", state: 1 });
    publish(client, "x", "a.3");
    reconnect(outside, client);
    assert.equal(asked(client).at(-1).since, "a.3");
    answer(client, { at: "a.4", recovered: true, messages: [{ data: "y", at: "a.4" }] });
    assert.deepEqual(told, [["state", 1, "a.2"], "x", "y"]);
  });

  test("has a new state, and no gap, where the position is too old", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2", state: 1 });
    reconnect(outside, client);
    answer(client, { at: "b.9", recovered: false, state: 7 });
    publish(client, "x", "b.10");
    assert.deepEqual(told, [["state", 1, "a.2"], ["state", 7, "b.9"], "x"]);
    reconnect(outside, client);
    assert.equal(asked(client).at(-1).since, "b.10");
  });

  test("asks for the state after a gap, and hears nothing before it", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2", state: 1 });
    client.socket.sayFrame({ op: "gap", topic: "tasks", at: "a.9" });
    assert.deepEqual(
      asked(client).map(({ since }) => since),
      [undefined, undefined],
    );
    publish(client, "between", "a.10");
    client.socket.sayFrame({ op: "gap", topic: "tasks", at: "a.11" }); // it is being asked already
    answer(client, { at: "a.12", state: 2 });
    publish(client, "x", "a.13");
    assert.deepEqual(told, [["state", 1, "a.2"], ["state", 2, "a.12"], "x"]);
  });

  test("tells a caller that comes later too", () => {
    const client = startV1(outside);
    const first = follow(client);
    answer(client, { at: "a.2", state: 1 });
    const second = follow(client);
    answer(client, { at: "a.5", state: 2 });
    publish(client, "x", "a.6");
    assert.deepEqual(first.told, [["state", 1, "a.2"], ["state", 2, "a.5"], "x"]);
    assert.deepEqual(second.told, [["state", 2, "a.5"], "x"]);
  });

  test("is asked for again where the application could not tell it", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    client.socket.sayFrame({ op: "error", id: lastId(client), topic: "tasks", code: "internal", message: "no" });
    outside.clock.advance(2_000);
    answer(client, { at: "a.2", state: 1 });
    assert.deepEqual(told, ["error internal", ["state", 1, "a.2"]]);
  });
});

test("a topic without a state tells of gaps as ever", () => {
  const client = startV1(outside);
  const { told } = follow(client, { onState: undefined });
  answer(client, { at: "a.2" });
  client.socket.sayFrame({ op: "gap", topic: "tasks" });
  assert.deepEqual(told, ["gap"]);
  assert.equal(asked(client).length, 1);
});

test("the plain wire has no states", () => {
  const client = start(outside, { plain: true });
  assert.throws(() => follow(client), TypeError);
});
