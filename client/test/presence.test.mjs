// Who is present in a topic.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { reconnect, setUp, settled, startV1 } from "./fakes.mjs";

const outside = setUp();

const member = (id, ...sessions) => ({ id, sessions: sessions.length ? sessions : [null] });

/** Subscribes, and notes what it is told. */
function watch(client, options) {
  const told = [];
  client.live.subscribe("room", () => {}, {
    onJoin: ({ id }) => told.push(`+${id}`),
    onLeave: ({ id }) => told.push(`-${id}`),
    onChange: ({ id, sessions }, before) => told.push(`${id}: ${JSON.stringify(before.sessions)} to ${JSON.stringify(sessions)}`),
    onPresence: ({ members, count }) => told.push(`${count}: ${[...members.keys()]}`),
    ...options,
  });
  return told;
}

const asked = (client) => client.socket.sent.flat();
const answer = (client) => client.socket.sayFrame({ op: "reply", id: asked(client).findLast(({ op }) => op === "subscribe").id });
const say = (client, more) => client.socket.sayFrame({ op: "presence", topic: "room", ...more });
const take = (told) => told.splice(0);

function here(...members) {
  const client = startV1(outside);
  const told = watch(client);
  answer(client);
  say(client, { members });
  take(told);
  return { client, told };
}

describe("presence", () => {
  test("has the members, then follows the changes", () => {
    const client = startV1(outside);
    const told = watch(client);
    assert.equal(client.live.presence("room").count, undefined);
    answer(client);
    say(client, { members: [member("ann", { typing: true }, null), member("bob")] });
    assert.deepEqual(take(told), ["2: ann,bob"], "members that were there have not joined");
    say(client, { joined: [member("cy")], changed: [member("ann")], left: ["bob"] });
    assert.deepEqual(take(told), ["-bob", 'ann: [{"typing":true},null] to [null]', "+cy", "2: ann,cy"]);
    assert.deepEqual(client.live.presence("room").members.get("cy"), member("cy"));
  });

  test("has a Map, so any user is a name like another", () => {
    const { client, told } = here();
    say(client, { joined: [member("__proto__", "x"), member("constructor"), member(":1")] });
    assert.deepEqual(take(told), ["+__proto__", "+constructor", "+:1", "3: __proto__,constructor,:1"]);
    say(client, { left: ["constructor", "toString"] });
    assert.deepEqual(take(told), ["-constructor", "2: __proto__,:1"]);
  });

  test("tells after a reconnect only what is different", () => {
    const { client, told } = here(member("ann"), member("bob", 1), member("cy"));
    reconnect(outside, client);
    assert.deepEqual(take(told), [], "a connection that is lost is no event");
    assert.equal(client.live.presence("room").count, 3);
    answer(client);
    say(client, { members: [member("ann"), member("bob", 2), member("dee")] });
    assert.deepEqual(take(told), ["-cy", "bob: [1] to [2]", "+dee", "3: ann,bob,dee"]);
    reconnect(outside, client);
    answer(client);
    say(client, { members: [member("ann"), member("bob", 2), member("dee")] });
    assert.deepEqual(take(told), ["3: ann,bob,dee"]);
  });

  test("does not take another order of sessions for a change", () => {
    const { client, told } = here(member("ann", 1, 2));
    say(client, { changed: [member("ann", 2, 1)] });
    assert.deepEqual(take(told), ["1: ann"]);
  });

  test("is told to a caller that comes later", async () => {
    const { client } = here(member("ann"));
    const told = watch(client);
    await null;
    assert.deepEqual(told, ["1: ann"]);
  });

  test("waits for the last part of a state", () => {
    const { client, told } = here(member("ann"), member("bob"));
    say(client, { members: [member("ann", 1)], more: true });
    say(client, { joined: [member("cy")], left: ["ann"] });
    say(client, { members: [member("bob")], continued: true, more: true });
    assert.deepEqual(take(told), []);
    assert.deepEqual([...client.live.presence("room").members.keys()], ["ann", "bob"]);
    say(client, { members: [member("cy", 2)], continued: true });
    assert.deepEqual(take(told), ["-ann", "+cy", "2: cy,bob"]);
    assert.deepEqual(client.live.presence("room").members.get("cy"), member("cy", 2));
  });

  test("begins a state anew where another one was not complete", () => {
    const { client, told } = here(member("ann"));
    say(client, { members: [member("bob")], more: true });
    say(client, { members: [member("ann")] });
    assert.deepEqual(take(told), ["1: ann"]);
    say(client, { joined: [member("cy")] });
    assert.deepEqual(take(told), ["+cy", "2: ann,cy"]);
  });

  test("forgets a part of a state when the connection is lost", () => {
    const { client, told } = here(member("ann"));
    say(client, { members: [member("bob")], more: true });
    reconnect(outside, client);
    answer(client);
    say(client, { members: [member("ann")] });
    assert.deepEqual(take(told), ["1: ann"]);
  });

  test("knows only the number of a large topic, and nobody has left", () => {
    const { client, told } = here(member("ann"), member("bob"));
    say(client, { count: 501 });
    say(client, { count: 502 });
    assert.deepEqual(take(told), ["501: ", "502: "]);
    say(client, { members: [member("ann"), member("cy")] });
    assert.deepEqual(take(told), ["2: ann,cy"], "who is new is not known");
    say(client, { left: ["ann"] });
    assert.deepEqual(take(told), ["-ann", "1: cy"]);
  });

  test("is not told of topics that are not subscribed any more", () => {
    const client = startV1(outside);
    const told = [];
    const stop = client.live.subscribe("room", () => {}, { onPresence: () => told.push("told") });
    answer(client);
    say(client, { members: [member("ann")] });
    stop();
    say(client, { joined: [member("bob")] });
    assert.deepEqual(told, ["told"]);
    assert.equal(client.live.presence("room").members.size, 0);
  });

  test("of an earlier subscription is not taken for the beginning of a new one", () => {
    const client = startV1(outside);
    client.live.subscribe("room", () => {})();
    const told = watch(client);
    say(client, { joined: [member("cy")] });
    say(client, { members: [member("cy")], continued: true });
    answer(client);
    say(client, { members: [member("ann"), member("cy")] });
    assert.deepEqual(told, ["2: ann,cy"]);
  });

  test("goes on when a listener throws", () => {
    const client = startV1(outside);
    const told = watch(client, { onJoin: () => assert.fail("a fault of the page") });
    answer(client);
    say(client, { members: [] });
    say(client, { joined: [member("ann"), member("bob")] });
    assert.deepEqual(told, ["0: ", "2: ann,bob"]);
    assert.equal(client.all("error").length, 2);
  });
});

describe("this page's presence", () => {
  const last = (client) => asked(client).at(-1);
  const reply = (client, more) => client.socket.sayFrame({ op: "reply", id: last(client).id, ...more });

  test("has an info from the beginning, and on each connection", () => {
    const client = startV1(outside);
    watch(client, { info: { typing: false } });
    assert.deepEqual(last(client).info, { typing: false });
    answer(client);
    reconnect(outside, client);
    assert.deepEqual(last(client).info, { typing: false });
  });

  test("has another info after setPresence, also on the next connection", async () => {
    const client = startV1(outside);
    watch(client, { info: 1 });
    answer(client);
    const set = client.live.setPresence("room", 2);
    assert.deepEqual(last(client), { id: last(client).id, op: "present", topic: "room", info: 2 });
    reply(client, { member: "ann" });
    assert.equal(await set, "ann");
    reconnect(outside, client);
    assert.equal(last(client).info, 2);
  });

  test("keeps its info where another is refused", async () => {
    const client = startV1(outside);
    watch(client, { info: 1 });
    answer(client);
    const set = client.live.setPresence("room", 2);
    client.socket.sayFrame({ op: "error", id: last(client).id, code: "forbidden" });
    await assert.rejects(set, { code: "forbidden", topic: "room" });
    reconnect(outside, client);
    assert.equal(last(client).info, 1);
  });

  test("watches unseen", () => {
    const client = startV1(outside);
    watch(client, { unseen: true });
    assert.equal(last(client).unseen, true);
    reconnect(outside, client);
    assert.equal(last(client).unseen, true);
  });

  test("is unseen after clearPresence, and seen after setPresence", async () => {
    const client = startV1(outside);
    watch(client, { info: 1 });
    answer(client);
    const cleared = client.live.clearPresence("room");
    assert.equal(last(client).op, "absent");
    reply(client);
    assert.equal(await cleared, undefined);
    reconnect(outside, client);
    assert.equal(last(client).unseen, true);
    assert.equal(last(client).info, undefined);
    answer(client);
    const set = client.live.setPresence("room");
    reply(client, { member: "ann" });
    await set;
    reconnect(outside, client);
    assert.equal(last(client).unseen, false);
  });

  test("is there without a subscription, on each connection", async () => {
    const client = startV1(outside);
    const set = client.live.setPresence("lobby", { busy: true });
    reply(client, { member: "ann" });
    await set;
    reconnect(outside, client);
    assert.deepEqual(last(client), { id: last(client).id, op: "present", topic: "lobby", info: { busy: true } });
  });

  test("changes for a second caller with an info", () => {
    const client = startV1(outside);
    watch(client);
    answer(client);
    watch(client, { info: 3 });
    assert.deepEqual(last(client).op, "present");
    assert.equal(last(client).info, 3);
  });

  test("is what the page said last, also if the answer was lost or the connection was away for long", async () => {
    for (const outage of [0, 15_000]) {
      const client = startV1(outside);
      watch(client, { info: 1 });
      answer(client);
      if (outage) client.socket.end();
      const set = assert.rejects(client.live.setPresence("room", 2), { code: outage ? "timeout" : "disconnected" });
      if (!outage) client.socket.end();
      client.live.reconnect();
      if (outage) outside.clock.advance(outage);
      await set;
      client.live.reconnect();
      client.socket.greet();
      assert.deepEqual([last(client).op, last(client).info], ["present", 2]);
      reply(client, { member: "ann" });
      await settled();
      reconnect(outside, client);
      assert.deepEqual([last(client).op, last(client).info], ["subscribe", 2]);
    }
  });

  test("is the info of a subscription that is newer than what still waits for a connection", async () => {
    for (const ask of [(live) => live.setPresence("room", 1), (live) => live.clearPresence("room")]) {
      const client = startV1(outside);
      client.socket.end();
      const clears = !String(ask).includes("set");
      const waits = ask(client.live).then(() => "done", ({ code }) => code);
      watch(client, { info: 2 });
      client.live.reconnect();
      client.socket.greet();
      assert.deepEqual(asked(client).map(({ op, topic, info }) => [op, topic, info]), [["subscribe", "room", 2]]);
      assert.equal(await waits, clears ? "done" : "aborted");
      reconnect(outside, client);
      assert.equal(asked(client)[0].info, 2);
    }
  });

  test("is not asked for by a page that has left meanwhile", async () => {
    const client = startV1(outside);
    for (const offline of [false, true]) {
      const stop = client.live.subscribe("room", () => {}, { info: 1 });
      answer(client);
      if (offline) client.socket.end();
      const set = client.live.setPresence("room", 2).catch(({ code }) => code);
      const { id } = last(client);
      stop();
      if (!offline) client.socket.sayFrame({ op: "reply", id, member: "ann" });
      assert.equal(await set, offline ? "aborted" : "ann");
      if (!offline) client.socket.end();
      client.live.reconnect();
      client.socket.greet();
      assert.deepEqual(asked(client), []);
    }
  });

  test("stays unseen if it was cleared before an answer came", async () => {
    const client = startV1(outside);
    watch(client);
    answer(client);
    const set = client.live.setPresence("room", 1);
    const { id } = last(client);
    client.live.clearPresence("room").catch(() => {});
    client.socket.sayFrame({ op: "reply", id, member: "ann" });
    await set;
    reconnect(outside, client);
    assert.deepEqual([last(client).unseen, last(client).info], [true, undefined]);
  });

  test("ends with the subscription", () => {
    const client = startV1(outside);
    const stop = client.live.subscribe("room", () => {}, { info: 1 });
    answer(client);
    stop();
    reconnect(outside, client);
    assert.deepEqual(asked(client), []);
  });
});
