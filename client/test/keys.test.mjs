// Keyed topics: the newest value of each key.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { reconnect, setUp, startV1 } from "./fakes.mjs";

const outside = setUp();

function follow(client) {
  const told = [];
  client.live.on("gap", () => told.push("gap"));
  client.live.subscribe("cursors", (data, { key, removed }) => told.push(removed ? `-${key}` : `${key}=${data}`));
  return told;
}

const lastId = (client) => client.socket.sent.flat().at(-1).id;
const answer = (client, more) => client.socket.sayFrame({ op: "reply", id: lastId(client), keyed: true, ...more });
const say = (client, more) => client.socket.sayFrame({ topic: "cursors", ...more });
const keys = (client) => Object.fromEntries(client.live.keys("cursors"));

describe("a keyed topic", () => {
  test("has every key, then follows the changes", () => {
    const client = startV1(outside);
    const told = follow(client);
    answer(client, { at: "a.3", messages: [{ key: "ann", data: 1 }, { key: "bob", data: 2 }] });
    say(client, { key: "ann", data: 3, at: "a.4" });
    say(client, { key: "bob", removed: true, at: "a.5" });
    assert.deepEqual(told, ["ann=1", "bob=2", "ann=3", "-bob"]);
    assert.deepEqual(keys(client), { ann: 3 });
  });

  test("has a Map, so any key is a name like another", () => {
    const client = startV1(outside);
    follow(client);
    answer(client, { at: "a.3", messages: [{ key: "__proto__", data: 1 }, { key: "constructor", data: 2 }] });
    assert.deepEqual([...client.live.keys("cursors")], [["__proto__", 1], ["constructor", 2]]);
  });

  test("keeps its keys when it resumes, and gets what changed", () => {
    const client = startV1(outside);
    const told = follow(client);
    answer(client, { at: "a.3", messages: [{ key: "ann", data: 1 }, { key: "bob", data: 2 }] });
    reconnect(outside, client);
    assert.equal(client.socket.sent.flat().at(-1).since, "a.3");
    answer(client, { at: "a.5", recovered: true, messages: [{ key: "bob", removed: true }, { key: "cy", data: 4 }] });
    assert.deepEqual(told, ["ann=1", "bob=2", "-bob", "cy=4"]);
    assert.deepEqual(keys(client), { ann: 1, cy: 4 });
  });

  test("begins anew without a gap when it was away for too long", () => {
    const client = startV1(outside);
    const told = follow(client);
    answer(client, { at: "a.3", messages: [{ key: "ann", data: 1 }, { key: "bob", data: 2 }] });
    reconnect(outside, client);
    answer(client, { at: "b.5", recovered: false, messages: [{ key: "bob", data: 3 }] });
    say(client, { key: "cy", data: 4, recovered: true });
    assert.deepEqual(told, ["ann=1", "bob=2", "-ann", "-bob", "bob=3", "cy=4"]);
    assert.deepEqual(keys(client), { bob: 3, cy: 4 });
  });

  test("begins anew where the server says gap", () => {
    const client = startV1(outside);
    const told = follow(client);
    answer(client, { at: "a.3", messages: [{ key: "ann", data: 1 }] });
    client.socket.sayFrame({ op: "gap", topic: "cursors" });
    say(client, { key: "bob", data: 2, at: "a.9" });
    assert.deepEqual(told, ["ann=1", "-ann", "bob=2"]);
    assert.deepEqual(keys(client), { bob: 2 });
  });

  test("is asked for whole if the connection ends before all keys came anew", () => {
    const client = startV1(outside);
    follow(client);
    answer(client, { at: "a.3", messages: [{ key: "ann", data: 1 }] });
    client.socket.sayFrame({ op: "gap", topic: "cursors" });
    say(client, { key: "bob", data: 2 });
    reconnect(outside, client);
    assert.equal(client.socket.sent.flat().at(-1).since, undefined);
  });

  test("without a position is asked for whole again", () => {
    const client = startV1(outside);
    follow(client);
    answer(client, { messages: [{ key: "ann", data: 1 }] }); // more follows, and its end has the position
    reconnect(outside, client);
    assert.equal(client.socket.sent.flat().at(-1).since, undefined);
  });

  test("has no keys where it is not subscribed", () => {
    const client = startV1(outside);
    assert.equal(client.live.keys("cursors").size, 0);
  });
});
