// After a reconnect, missed messages come once and in order, or there is a gap.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { reconnect, setUp, start, startOpen, startV1 } from "./fakes.mjs";

const outside = setUp();

/** A subscription that the server has accepted, at that position. */
function follow(client, topic, at, options) {
  const told = [];
  const stop = client.live.subscribe(topic, (data, message) => told.push(message), options);
  client.socket.reply("subscribe", topic, { at });
  return { told, stop, data: () => told.map((message) => message.data) };
}

/** The position from which the newest subscribe of the topic resumes. */
const since = (client, topic) => client.socket.sent.flat().findLast((f) => f.op === "subscribe" && f.topic === topic).since;

const messages = (...all) => all.map(([data, at]) => ({ data, at }));

describe("the position", () => {
  test("is the reply's, at first", () => {
    const client = startV1(outside);
    follow(client, "a", "e.0");
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.0");
  });

  test("is that of the newest publication, each topic's own, all in one frame", () => {
    const client = startV1(outside);
    for (const topic of ["a", "b", "c"]) follow(client, topic, `${topic}.0`);
    client.socket.say("a", 1, "a.1");
    client.socket.say("a", 2, "a.2");
    client.socket.say("b", 1, "b.1");
    reconnect(outside, client);
    assert.deepEqual(client.socket.sent, [
      [
        { op: "subscribe", id: 4, topic: "a", since: "a.2" },
        { op: "subscribe", id: 5, topic: "b", since: "b.1" },
        { op: "subscribe", id: 6, topic: "c", since: "c.0" },
      ],
    ]);
  });

  test("is not moved by what has none: a message for this session alone", () => {
    const client = startV1(outside);
    const { data } = follow(client, "a", "e.1");
    client.socket.say("a", "for you");
    assert.deepEqual(data(), ["for you"]);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.1");
  });

  test("is not moved by an own publication's reply, which may overtake older publications", async () => {
    const client = startV1(outside);
    follow(client, "a", "e.1");
    const published = client.live.publish("a", "mine");
    client.socket.reply("publish", "a", { at: "e.4" });
    assert.equal(await published, "e.4");
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.1");
  });

  test("is kept through failed attempts and connections that die before the answer", () => {
    const client = startV1(outside);
    follow(client, "a", "e.1");
    client.socket.end();
    for (let i = 0; i < 3; i++) {
      outside.clock.advance(client.live.retryIn);
      client.socket.end();
    }
    outside.clock.advance(client.live.retryIn);
    client.socket.greet();
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.1");
  });

  test("ends with the subscription", () => {
    const client = startV1(outside);
    follow(client, "a", "e.1").stop();
    client.live.subscribe("a", () => {});
    assert.equal(since(client, "a"), undefined);
  });

  test("may be given, as kept by an earlier page", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data) => told.push(data), { since: "e.7" });
    assert.deepEqual(client.socket.sent, [[{ op: "subscribe", id: 1, topic: "a", since: "e.7" }]]);
    client.socket.reply("subscribe", "a", { at: "e.8", recovered: true, messages: messages([8, "e.8"]) });
    assert.deepEqual(told, [8]);
    assert.deepEqual(client.all("gap"), []);

    client.live.subscribe("b", () => {}, { since: "old.1" });
    client.socket.reply("subscribe", "b", { at: "new.1", recovered: false });
    assert.deepEqual(client.all("gap"), [{ topic: "b", reason: "not_recovered" }]);
  });
});

describe("last", () => {
  test("goes along with the position, for the case that this is too old", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data) => told.push(data), { since: "e.1", last: 2 });
    assert.deepEqual(client.socket.sent, [[{ op: "subscribe", id: 1, topic: "a", since: "e.1", last: 2 }]]);
    client.live.on("gap", () => told.push("gap"));
    client.socket.reply("subscribe", "a", { at: "e.9", recovered: false, messages: messages([8, "e.8"], [9, "e.9"]) });
    assert.deepEqual(told, ["gap", 8, 9]);

    reconnect(outside, client);
    assert.deepEqual(client.socket.sent.flat(), [{ op: "subscribe", id: 2, topic: "a", since: "e.9", last: 2 }]);
  });

  test("is not asked for again on a topic without positions", () => {
    const client = startV1(outside);
    client.live.subscribe("a", () => {}, { last: 2 });
    client.socket.reply("subscribe", "a", {});
    reconnect(outside, client);
    assert.deepEqual(client.socket.sent.flat(), [{ op: "subscribe", id: 2, topic: "a" }]);
  });
});

describe("what was missed", () => {
  test("comes in order before what is new, marked, with its position, and moves it", () => {
    const client = startV1(outside);
    const { told } = follow(client, "a", "e.1");
    client.socket.say("a", 2, "e.2");
    reconnect(outside, client);
    client.socket.reply("subscribe", "a", { at: "e.4", recovered: true, messages: messages([3, "e.3"], [4, "e.4"]) });
    client.socket.say("a", 5, "e.5");
    const live = (data) => ({ topic: "a", data, at: `e.${data}` });
    const recovered = (data) => ({ ...live(data), recovered: true });
    assert.deepEqual(told, [live(2), recovered(3), recovered(4), live(5)]);
    assert.deepEqual(client.all("message"), told);
    assert.deepEqual(client.all("gap"), []);

    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.5");
    client.socket.reply("subscribe", "a", { at: "e.9", recovered: true, messages: [] });
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.9");
  });

  test("and last, at the first subscription, are told alike", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data, message) => told.push(message), { last: 2 });
    client.socket.reply("subscribe", "a", { at: "e.2", messages: messages([1, "e.1"], [2, "e.2"]) });
    assert.deepEqual(told.map(({ data, recovered }) => [data, recovered]), [[1, true], [2, true]]);
    assert.deepEqual(client.all("gap"), []);
  });

  test("is not heard by who ends the subscription meanwhile, nor by who begins one", () => {
    const client = startV1(outside);
    const told = [];
    const stop = client.live.subscribe("a", (data) => {
      told.push(`first ${data}`);
      stop();
      client.live.subscribe("a", (later) => told.push(`second ${later}`));
    });
    client.socket.reply("subscribe", "a", { at: "e.2", messages: messages([1, "e.1"], [2, "e.2"]) });
    assert.deepEqual(told, ["first 1"]);
    client.socket.reply("subscribe", "a", { at: "e.2" });
    client.socket.say("a", 3, "e.3");
    assert.deepEqual(told, ["first 1", "second 3"]);
  });

  test("is not told after close()", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data) => {
      told.push(data);
      client.live.close();
    });
    client.socket.reply("subscribe", "a", { at: "e.2", messages: messages([1, "e.1"], [2, "e.2"]) });
    assert.deepEqual(told, [1]);
  });

  test("a failing listener stops neither the rest nor the position", () => {
    const client = startV1(outside);
    const { data } = follow(client, "a", "e.0");
    client.live.subscribe("a", () => {
      throw new Error("bad");
    });
    reconnect(outside, client);
    client.socket.reply("subscribe", "a", { at: "e.2", recovered: true, messages: messages([1, "e.1"], [2, "e.2"]) });
    assert.deepEqual(data(), [1, 2]);
    assert.equal(client.all("error").length, 2);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.2");
  });

  test("of a subscription that was ended does not come twice: once alive, once by last", () => {
    const client = startV1(outside);
    follow(client, "a", "e.0").stop();
    const told = [];
    client.live.subscribe("a", (data) => told.push(data), { last: 1 });
    client.socket.say("a", 1, "e.1"); // sent before the server knew of the end
    client.socket.reply("subscribe", "a", { at: "e.1", messages: messages([1, "e.1"]) });
    client.socket.say("a", 2, "e.2");
    assert.deepEqual(told, [1, 2]);
  });
});

describe("what does not fit the reply", () => {
  const live = (data, topic = "a") => ({ topic, data, at: `e.${data}` });
  const recovered = (data, topic) => ({ ...live(data, topic), recovered: true });
  const recover = (client, data, topic) => client.socket.sayFrame(recovered(data, topic));

  /** A client that missed 2 to 5, and was answered with 2 and 3. */
  function resumed(options) {
    const client = startV1(outside);
    const following = follow(client, "a", "e.1", options);
    reconnect(outside, client);
    client.heard.length = 0;
    client.socket.reply("subscribe", "a", { at: "e.3", recovered: true, messages: messages([2, "e.2"], [3, "e.3"]) });
    return { client, ...following };
  }

  test("follows as publications, which are told like the reply's, before what is new", () => {
    const { client, told } = resumed();
    recover(client, 4);
    recover(client, 5);
    client.socket.say("a", 6, "e.6");
    assert.deepEqual(told, [recovered(2), recovered(3), recovered(4), recovered(5), live(6)]);
    assert.deepEqual(client.all("message"), told);
    assert.deepEqual(client.names(), Array(5).fill("message"));
  });

  test("follows at the first subscription with last, too", () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("a", (data, message) => told.push(message), { last: 4 });
    client.socket.reply("subscribe", "a", { at: "e.3", messages: messages([2, "e.2"], [3, "e.3"]) });
    recover(client, 4);
    recover(client, 5);
    client.socket.say("a", 6, "e.6");
    assert.deepEqual(told, [recovered(2), recovered(3), recovered(4), recovered(5), live(6)]);
    assert.deepEqual(client.all("gap"), []);
  });

  test("is asked for again from the reply's position when the connection breaks before any of it", () => {
    const { client, told } = resumed();
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.3");
    client.socket.reply("subscribe", "a", { at: "e.5", recovered: true, messages: messages([4, "e.4"], [5, "e.5"]) });
    assert.deepEqual(told, [2, 3, 4, 5].map((data) => recovered(data)));
    assert.deepEqual(client.all("gap"), []);
  });

  test("is asked for again from the newest that came when the connection breaks in the middle", () => {
    const { client, told } = resumed();
    recover(client, 4);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.4");
    client.socket.reply("subscribe", "a", { at: "e.4", recovered: true, messages: [] });
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.4", "the reply held nothing yet");
    client.socket.reply("subscribe", "a", { at: "e.5", recovered: true, messages: messages([5, "e.5"]) });
    client.socket.say("a", 6, "e.6");
    assert.deepEqual(told, [recovered(2), recovered(3), recovered(4), recovered(5), live(6)]);
    assert.deepEqual(client.all("gap"), []);
  });

  test("may have other topics' frames, pings and answers between", async () => {
    const { client, told } = resumed();
    const other = follow(client, "b", "e.1");
    const answer = client.live.request("echo");
    recover(client, 4);
    client.socket.say("b", 2, "e.2");
    client.socket.sayFrame({ op: "ping" });
    recover(client, 3, "b");
    client.socket.say("a", "for this session alone");
    client.socket.reply("request", "echo", { data: "answer" });
    recover(client, 5);
    assert.equal(await answer, "answer");
    assert.deepEqual(other.told, [live(2, "b"), recovered(3, "b")]);
    assert.deepEqual(told.slice(2), [recovered(4), { topic: "a", data: "for this session alone" }, recovered(5)]);
    reconnect(outside, client);
    assert.deepEqual([since(client, "a"), since(client, "b")], ["e.5", "e.3"]);
  });

  test("is a gap where the history was trimmed meanwhile, and goes on behind it", () => {
    const gaps = [];
    const { client, told } = resumed({ onGap: (gap) => gaps.push([gap.reason, told.length]) });
    recover(client, 4);
    client.socket.sayFrame({ op: "gap", topic: "a", at: "e.7" });
    assert.deepEqual(gaps, [["lost", 3]]);
    recover(client, 8);
    assert.deepEqual(told.map(({ data }) => data), [2, 3, 4, 8]);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.8");
  });

  test("resumes behind a gap, if the connection breaks right after it", () => {
    const { client } = resumed();
    client.socket.sayFrame({ op: "gap", topic: "a", at: "e.7" });
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.7");
  });

  test("is not heard by a listener that has left meanwhile, nor twice by one that comes", () => {
    const { client, told, stop } = resumed();
    recover(client, 4);
    stop();
    recover(client, 5); // sent before the server knew of the end
    const later = [];
    client.live.subscribe("a", (data) => later.push(data), { last: 2 });
    recover(client, 6);
    client.socket.reply("subscribe", "a", { at: "e.6", messages: messages([6, "e.6"]) });
    recover(client, 7);
    assert.deepEqual(told.map(({ data }) => data), [2, 3, 4]);
    assert.deepEqual(later, [6, 7]);
  });
});

describe("a gap", () => {
  /** The gaps as the event tells them, and as the subscription's own listener does. */
  function watched(client, topic, at) {
    const own = [];
    follow(client, topic, at, { onGap: (gap) => own.push(gap) });
    return own;
  }

  test("is none at the first subscription", () => {
    const client = startV1(outside);
    const own = watched(client, "a", "e.1");
    follow(client, "b");
    assert.deepEqual([client.all("gap"), own], [[], []]);
  });

  test("is told when the history does not reach back, before what comes", () => {
    const client = startV1(outside);
    const own = watched(client, "a", "e.1");
    watched(client, "b", "e.1");
    reconnect(outside, client);
    client.heard.length = 0;
    client.socket.reply("subscribe", "a", { at: "f.9", recovered: false, messages: messages(["x", "f.9"]) });
    client.socket.reply("subscribe", "b", { at: "e.1", recovered: true, messages: [] });
    client.socket.say("a", "y", "f.10");
    assert.deepEqual(client.names(), ["gap", "message", "message"]);
    assert.deepEqual(client.last("gap"), { topic: "a", reason: "not_recovered" });
    assert.deepEqual(own, [{ topic: "a", reason: "not_recovered" }]);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "f.10");
  });

  test("is told for a topic without history at each reconnect: nobody knows what was missed", () => {
    const client = startV1(outside);
    const own = watched(client, "a", undefined);
    for (let i = 1; i <= 2; i++) {
      reconnect(outside, client);
      assert.equal(own.length, i - 1);
      client.socket.reply("subscribe", "a");
      assert.deepEqual(own.at(-1), { topic: "a", reason: "no_history" });
    }
  });

  test("is told for a topic that has lost its history", () => {
    const client = startV1(outside);
    const own = watched(client, "a", "e.1");
    reconnect(outside, client);
    client.socket.reply("subscribe", "a", { recovered: false });
    assert.deepEqual(own, [{ topic: "a", reason: "not_recovered" }]);
    reconnect(outside, client);
    assert.equal(since(client, "a"), undefined);
  });

  test("is told when the server says so, and moves the position behind it", () => {
    const client = startV1(outside);
    const own = watched(client, "a", "e.1");
    client.socket.sayFrame({ op: "gap", topic: "a", at: "e.5" });
    assert.deepEqual([own, client.all("gap")], [[{ topic: "a", reason: "lost" }], [{ topic: "a", reason: "lost" }]]);
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.5");
  });

  test("that does not say where the loss ends leaves the position", () => {
    const client = startV1(outside);
    watched(client, "a", "e.1");
    client.socket.say("a", 2, "e.2");
    client.socket.sayFrame({ op: "gap", topic: "a" });
    reconnect(outside, client);
    assert.equal(since(client, "a"), "e.2");
  });

  test("of a topic that was not asked for is an event as well", () => {
    const client = startV1(outside);
    client.socket.sayFrame({ op: "gap", topic: "inbox" });
    assert.deepEqual(client.all("gap"), [{ topic: "inbox", reason: "lost" }]);
  });

  test("is told on the plain wire after each reconnect, and not at first", () => {
    const client = start(outside);
    client.live.subscribe("a", () => {});
    client.socket.accept();
    assert.deepEqual(client.all("gap"), []);
    client.socket.end();
    outside.clock.advance(500);
    client.socket.accept();
    assert.deepEqual(client.all("gap"), [{ topic: "a", reason: "no_history" }]);
  });

  test("is heard no more by who has ended the subscription", () => {
    const client = startOpen(outside);
    const own = [];
    const stop = client.live.subscribe("a", () => {}, { onGap: (gap) => own.push(gap) });
    client.live.subscribe("a", () => {});
    stop();
    client.socket.end();
    outside.clock.advance(500);
    client.socket.accept();
    assert.deepEqual([own, client.all("gap").length], [[], 1]);
  });

  test("stops no reconnect if its listener fails", () => {
    const client = startV1(outside);
    const { data } = follow(client, "a", "e.1", {
      onGap: () => {
        throw new Error("bad");
      },
    });
    reconnect(outside, client);
    client.socket.reply("subscribe", "a", { at: "f.0", recovered: false });
    client.socket.say("a", 1, "f.1");
    assert.deepEqual(data(), [1]);
    assert.match(client.last("error").message, /bad/);
  });
});
