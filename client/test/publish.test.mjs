// What publish() promises: a publication whose answer was lost is sent again, under the same uid, until its time is over.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { codeOf, reconnect, setUp, settled, start, startOpen, startV1, withoutUids } from "./fakes.mjs";

const outside = setUp();

/** The error that a promise rejects with, as [code, whether it was sent]. */
const endOf = (promise) => promise.then((at) => ["none", at], ({ code, sent }) => [code, sent]);

/** The data of the publications that the newest connection has carried. */
const published = (client) => client.socket.sent.flat().filter(({ op }) => op === "publish").map(({ data }) => data);

/** Answers every publication that the newest connection has carried. */
const answerAll = (client) => {
  for (const { op, id } of client.socket.heard()) if (op === "publish") client.socket.sayFrame({ op: "reply", id, at: `e.${id}` });
};

/** Breaks the connection, and lets no other open for this long. */
function outage(client, ms) {
  client.socket.end();
  for (const end = outside.clock.steady + ms; outside.clock.steady < end;) {
    outside.clock.advance(Math.min(client.live.retryIn ?? 100, end - outside.clock.steady));
    if (client.live.state === "connecting") client.socket.end();
  }
}

/** Opens the next connection. */
function recover(client) {
  outside.clock.advance(client.live.retryIn);
  client.socket.greet();
}

describe("a uid", () => {
  test("is made for each publication, and is no other's", () => {
    const client = startV1(outside);
    for (let n = 0; n < 1000; n++) codeOf(client.live.publish("a", n));
    assert.equal(withoutUids(client.socket.sent).length, 1000);
  });

  test("may be the caller's own, so that a page that was loaded anew can publish again", () => {
    const client = startV1(outside);
    codeOf(client.live.publish("a", 1, { uid: "draft 7" }));
    assert.deepEqual(client.socket.sent, [{ id: 1, op: "publish", topic: "a", data: 1, uid: "draft 7" }]);
  });

  test("does not travel on the plain wire", async () => {
    const client = startOpen(outside, { plain: true });
    assert.equal(await client.live.publish("a", 1, { uid: "draft 7" }), undefined);
    assert.deepEqual(client.socket.sent, [{ topic: "publish", data: { topic: "a", data: 1 } }]);
  });
});

describe("a publication whose answer was lost", () => {
  test("is sent again as it was, and resolves once, with the answer to the repetition", async () => {
    const client = startV1(outside);
    const data = { n: 1 };
    let ends = 0;
    const answer = client.live.publish("a", data).finally(() => ends++);
    data.n = 2;
    const [first] = client.socket.sent;
    reconnect(outside, client);
    assert.deepEqual(client.socket.sent, [first]);
    client.socket.reply("publish", "a", { at: "e.1" });
    client.socket.reply("publish", "a", { at: "e.2" });
    assert.equal(await answer, "e.1");
    reconnect(outside, client);
    assert.deepEqual([client.socket.sent, client.all("error"), ends], [[], [], 1]);
  });

  test("is sent again on as many connections as it takes", async () => {
    const client = startV1(outside);
    const answer = client.live.publish("a", 1);
    const sent = new Set();
    for (let n = 0; n < 3; n++) {
      sent.add(client.socket.texts.at(-1));
      reconnect(outside, client);
    }
    assert.equal(sent.size, 1);
    client.socket.reply("publish", "a", { at: "e.1" });
    assert.equal(await answer, "e.1");
  });

  test("is not sent again when the server may have forgotten its uid", async () => {
    const client = startV1(outside);
    const end = endOf(client.live.publish("a", 1, { timeout: 3_600_000 }));
    outage(client, 90_000);
    recover(client);
    assert.deepEqual(published(client), [1], "after 90 s");
    outage(client, 15_000);
    const later = endOf(client.live.publish("a", 2, { timeout: 3_600_000 }));
    recover(client);
    assert.deepEqual(published(client), [2], "after more than 100 s");
    answerAll(client);
    assert.deepEqual(await Promise.all([end, later]), [["disconnected", true], ["none", "e.2"]]);
  });

  test("that waited long for its first connection is sent", async () => {
    const client = start(outside);
    const end = endOf(client.live.publish("a", 1, { timeout: 3_600_000 }));
    outage(client, 300_000);
    recover(client);
    answerAll(client);
    assert.deepEqual(await end, ["none", "e.1"]);
  });

  test("keeps its place: after the subscriptions, before those that came later", async () => {
    const client = startV1(outside);
    client.live.subscribe("s", () => {});
    const ends = [1, 2].map((n) => endOf(client.live.publish("a", n)));
    client.socket.readyState = 2; // it closes, and nobody has said so yet
    ends.push(endOf(client.live.publish("b", 3)));
    client.socket.end();
    ends.push(endOf(client.live.publish("a", 4)));
    recover(client);
    ends.push(endOf(client.live.publish("a", 5)));
    assert.deepEqual(client.socket.sent.flat().map(({ op, data }) => data ?? op), ["subscribe", 1, 2, 3, 4, 5]);
    reconnect(outside, client);
    assert.deepEqual(published(client), [1, 2, 3, 4, 5]);
    answerAll(client);
    assert.deepEqual((await Promise.all(ends)).map(([code]) => code), Array(5).fill("none"));
  });

  test("goes without those that were answered, or given up", async () => {
    const client = startV1(outside);
    const abort = new AbortController();
    const ends = [
      endOf(client.live.publish("a", 1)),
      endOf(client.live.publish("b", 2, { signal: abort.signal })),
      endOf(client.live.publish("c", 3, { timeout: 100 })),
      endOf(client.live.publish("d", 4)),
    ];
    client.socket.reply("publish", "a", { at: "e.1" });
    abort.abort();
    outside.clock.advance(100);
    reconnect(outside, client);
    assert.deepEqual(published(client), [4]);
    client.socket.reply("publish", "d", { at: "e.2" });
    assert.deepEqual(await Promise.all(ends), [["none", "e.1"], ["aborted", true], ["timeout", true], ["none", "e.2"]]);
  });

  test("rejects with what the server answers to the repetition", async () => {
    const client = startV1(outside);
    const end = endOf(client.live.publish("a", 1));
    reconnect(outside, client);
    client.socket.refuse("publish", "a", "forbidden");
    assert.deepEqual(await end, ["forbidden", true]);
  });

  test("is given up by its signal while it waits to be sent again", async () => {
    const client = startV1(outside);
    const abort = new AbortController();
    const end = endOf(client.live.publish("a", 1, { signal: abort.signal }));
    client.socket.end();
    abort.abort();
    recover(client);
    assert.deepEqual([await end, client.socket.sent], [["aborted", true], []]);
  });

  test("counts for maxBuffered, and those beyond it are disconnected", async () => {
    const client = startV1(outside, { maxBuffered: 3 });
    const ends = [1, 2, 3].map((n) => endOf(client.live.publish("a", n)));
    client.socket.readyState = 2;
    ends.push(endOf(client.live.publish("a", 4)));
    client.socket.end();
    assert.deepEqual(await ends[2], ["disconnected", true]);
    assert.deepEqual(await endOf(client.live.publish("a", 5)), ["buffer_full", false]);
    recover(client);
    assert.deepEqual(published(client), [1, 2, 4]);
    const none = startV1(outside, { maxBuffered: 0 });
    const end = endOf(none.live.publish("a", 1));
    none.socket.end();
    assert.deepEqual(await end, ["disconnected", true]);
  });

  test("is not sent again if it was rather to fail than to wait", async () => {
    const client = startV1(outside);
    const end = endOf(client.live.publish("a", 1, { offline: "fail" }));
    reconnect(outside, client);
    assert.deepEqual([await end, client.socket.sent], [["disconnected", true], []]);
  });

  for (const code of [1002, 1007, 1008, 1009, 1011]) {
    test(`is not sent again to a server that closed with ${code}, since it may be the cause`, async () => {
      const client = startV1(outside);
      const end = endOf(client.live.publish("a", 1));
      reconnect(outside, client, () => client.socket.end(code, "why"));
      assert.deepEqual([await end, client.socket.sent], [["disconnected", true], []]);
    });
  }

  test("is published on the plain wire if the next connection speaks that", async () => {
    const client = startV1(outside);
    const answer = client.live.publish("a", 1);
    client.socket.end();
    outside.clock.advance(client.live.retryIn);
    client.socket.accept();
    assert.equal(await answer, undefined);
    assert.deepEqual(client.socket.sent, [{ topic: "publish", data: { topic: "a", data: 1 } }]);
  });
});

describe("the error of a publication tells whether it was sent:", () => {
  test("it was not, if the time was over without a connection", async () => {
    const client = start(outside);
    const end = endOf(client.live.publish("a", 1));
    outage(client, 10_000);
    assert.deepEqual(await end, ["timeout", false]);
    recover(client);
    assert.deepEqual(client.socket.sent, []);
  });

  test("it was, if no answer came in time, on one connection or on several", async () => {
    const client = startV1(outside);
    const ends = [endOf(client.live.publish("a", 1, { timeout: 1_000 })), endOf(client.live.publish("a", 2))];
    outside.clock.advance(1_000);
    outage(client, 9_000);
    assert.deepEqual(await Promise.all(ends), [["timeout", true], ["timeout", true]]);
    recover(client);
    assert.deepEqual(client.socket.sent, []);
    assert.equal(outside.clock.timers, 1, "the check of the connection");
  });

  test("a repetition has no more time than was left", async () => {
    const client = startV1(outside);
    let end;
    endOf(client.live.publish("a", 1)).then((what) => (end = what));
    outside.clock.advance(9_000);
    reconnect(outside, client);
    outside.clock.advance(499);
    await settled();
    assert.equal(end, undefined);
    outside.clock.advance(1);
    await settled();
    assert.deepEqual(end, ["timeout", true]);
  });

  for (const [name, end] of [["final word", ({ socket }) => socket.end(4001, "signed out")], ["goodbye", ({ socket }) => socket.end(1000, "closed by the server")]]) {
    test(`the server's ${name} ends those that were sent and those that waited`, async () => {
      const client = startV1(outside);
      const ends = [endOf(client.live.publish("a", 1))];
      client.socket.readyState = 2;
      ends.push(endOf(client.live.publish("a", 2)));
      end(client);
      assert.deepEqual(await Promise.all(ends), [["disconnected", true], ["closed", false]]);
      assert.equal(client.last("state").unsent, 1);
      assert.equal(outside.clock.timers, 0);
    });
  }

  test("close() ends those that were sent, wait to be sent again, or were never sent", async () => {
    const client = startV1(outside);
    const other = startV1(outside);
    const ends = [endOf(other.live.publish("a", 1)), endOf(client.live.publish("a", 1))];
    client.socket.end();
    ends.push(endOf(client.live.publish("a", 2)));
    client.live.close();
    other.live.close();
    assert.deepEqual(await Promise.all(ends), [["closed", true], ["closed", true], ["closed", false]]);
    assert.deepEqual([client.last("state").unsent, other.last("state").unsent], [2, 0]);
    assert.equal(outside.clock.timers, 0);
  });

  test("it was not, where the client itself refused it", async () => {
    assert.deepEqual(await endOf(start(outside).live.publish("a", 1, { offline: "fail" })), ["offline", false]);
    const client = startV1(outside);
    client.socket.sayFrame({ op: "hello", largest: 50 });
    assert.deepEqual(await endOf(client.live.publish("a", "x".repeat(50))), ["too_big", false]);
    assert.deepEqual(await endOf(startOpen(outside).live.request("a")), ["unsupported", false]);
  });

  test("a request tells it, too", async () => {
    const client = startV1(outside);
    const ends = [endOf(client.live.request("a")), endOf(client.live.history("a", 1, { timeout: 100 }))];
    outside.clock.advance(100);
    client.socket.end();
    ends.push(endOf(client.live.request("a", 1, { timeout: 100 })));
    outage(client, 100);
    assert.deepEqual(await Promise.all(ends), [["disconnected", true], ["timeout", true], ["timeout", false]]);
  });
});
