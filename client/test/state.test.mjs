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

describe("a state that takes the place of missed messages", () => {
  test("is a gap for a page without onState", () => {
    const client = startV1(outside);
    const { told } = follow(client, { onState: undefined });
    answer(client, { at: "a.2", state: 1 });
    assert.deepEqual(told, [], "nothing was missed at first");
    reconnect(outside, client);
    answer(client, { at: "b.9", recovered: false, state: 7 });
    publish(client, "x", "b.10");
    assert.deepEqual(told, ["gap", "x"]);
    assert.deepEqual(client.all("gap"), [{ topic: "tasks", reason: "not_recovered" }]);
  });

  test("is a gap for a page without onState that comes with a position", () => {
    const client = startV1(outside);
    const { told } = follow(client, { onState: undefined, since: "a.1" });
    answer(client, { at: "b.9", state: 7 });
    assert.deepEqual(told, ["gap"]);
  });

  for (const [how, lose] of [
    ["a reconnect", (client) => reconnect(outside, client)],
    ["a gap frame", (client) => client.socket.sayFrame({ op: "gap", topic: "tasks" })],
  ]) {
    test(`is a gap for those callers alone that have no onState, after ${how}`, () => {
      const client = startV1(outside);
      const first = follow(client);
      const second = follow(client, { onState: undefined });
      answer(client, { at: "a.2", state: 1 });
      lose(client);
      answer(client, { at: "a.9", state: 2 });
      publish(client, "x", "a.10");
      assert.deepEqual(first.told, [["state", 1, "a.2"], ["state", 2, "a.9"], "x"]);
      assert.deepEqual(second.told, ["gap", "x"]);
      assert.deepEqual(client.all("gap"), []);
    });
  }

  test("is no gap where a caller with onState has it told anew", () => {
    const client = startV1(outside);
    const first = follow(client, { onState: undefined });
    answer(client, { at: "a.2", state: 1 });
    follow(client);
    answer(client, { at: "a.2", state: 1 });
    assert.deepEqual(first.told, []);
    reconnect(outside, client);
    answer(client, { at: "a.9", state: 2 });
    assert.deepEqual(first.told, ["gap"]);
  });
});

describe("a topic without a Snapshot, and callers with onState", () => {
  test("tells of gaps, with their reason", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2" });
    client.socket.sayFrame({ op: "gap", topic: "tasks", at: "a.9" });
    assert.deepEqual(told, ["gap"]);
    assert.deepEqual(client.all("gap"), [{ topic: "tasks", reason: "lost" }]);
    reconnect(outside, client);
    assert.equal(asked(client).at(-1).since, "a.9");
    answer(client, { at: "b.1", recovered: false });
    assert.deepEqual(client.all("gap").at(-1), { topic: "tasks", reason: "not_recovered" });
  });

  test("asks for no state again, so that no message is kept back for it", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2" });
    follow(client);
    publish(client, "x", "a.3");
    assert.deepEqual(told, ["x"]);
    assert.equal(asked(client).length, 1);
  });

  test("tells that messages were kept back, if it was not known that there is no state", () => {
    const client = startV1(outside);
    const { told } = follow(client, { since: "a.1" });
    answer(client, { at: "a.2", recovered: true });
    follow(client);
    publish(client, "x", "a.3");
    answer(client, { at: "a.3" });
    publish(client, "y", "a.4");
    assert.deepEqual(told, ["gap", "y"]);
    assert.deepEqual(client.all("gap"), [{ topic: "tasks", reason: "lost" }]);
  });
});

describe("while a caller that came later has the state asked for anew", () => {
  /** A caller without onState, and one with it whose state is asked for. */
  function renewing() {
    const client = startV1(outside);
    const first = follow(client, { onState: undefined, last: 5 });
    answer(client, { at: "a.2", state: 1 });
    return { client, first, second: follow(client) };
  }

  test("the others hear all messages, also those who began with last", () => {
    const { client, first, second } = renewing();
    publish(client, "x", "a.3");
    answer(client, { at: "a.3", state: 2 });
    publish(client, "y", "a.4");
    assert.deepEqual(first.told, ["x", "y"]);
    assert.deepEqual(second.told, [["state", 2, "a.3"], "y"]);
  });

  test("an answer that fails for now is asked for again, and the others may have missed something", () => {
    const { client, first } = renewing();
    client.socket.sayFrame({ op: "error", id: lastId(client), topic: "tasks", code: "unavailable", message: "later" });
    outside.clock.advance(2_000);
    answer(client, { at: "a.7", state: 3 });
    assert.deepEqual(first.told, ["error unavailable", "gap"]);
  });

  test("a refusal ends the old subscription too, which the server still has", () => {
    const { client } = renewing();
    client.socket.sayFrame({ op: "error", id: lastId(client), topic: "tasks", code: "forbidden", message: "no" });
    assert.deepEqual(client.socket.sent.at(-1), { op: "unsubscribe", topic: "tasks" });
  });

  test("the end of all callers ends the old subscription too, which the server may still have", () => {
    const { client, first, second } = renewing();
    client.socket.sayFrame({ op: "error", id: lastId(client), topic: "tasks", code: "unavailable", message: "later" });
    first.stop();
    second.stop();
    assert.deepEqual(client.socket.sent.at(-1), { op: "unsubscribe", topic: "tasks" });
  });

  test("the position of an older answer does not come back", () => {
    const client = startV1(outside);
    const { told } = follow(client);
    answer(client, { at: "a.2", state: 1 });
    reconnect(outside, client);
    let second;
    client.live.listen("tasks", () => (second ??= follow(client)));
    answer(client, { at: "a.4", recovered: true, messages: [{ data: "x", at: "a.3" }, { data: "y", at: "a.4" }] });
    client.socket.sayFrame({ op: "error", id: lastId(client), topic: "tasks", code: "unavailable", message: "later" });
    outside.clock.advance(2_000);
    assert.equal(asked(client).at(-1).since, undefined, "y was told to nobody");
    answer(client, { at: "a.4", state: 4 });
    assert.deepEqual(told.filter((item) => item !== "error unavailable"), [["state", 1, "a.2"], "x", ["state", 4, "a.4"]]);
  });
});

test("the plain wire has no states", () => {
  const client = start(outside, { plain: true });
  assert.throws(() => follow(client), TypeError);
});
