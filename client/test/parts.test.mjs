// Answers that come in parts: pieces of a large answer's JSON text, and a history in several replies.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LiveError } from "../live.js";
import { codeOf, collectGarbage, reconnect, setUp, startV1 } from "./fakes.mjs";

const outside = setUp();

/** Asks, and returns the promise of the answer with the id of the question. */
function ask(client, topic = "a", options) {
  const answer = client.live.request(topic, null, options);
  return { answer, id: client.socket.heard().at(-1).id };
}

const askHistory = (client, options) => {
  const answer = client.live.history("a", 1000, options);
  return { answer, id: client.socket.heard().at(-1).id };
};

/** Sends the pieces of an answer. The last piece is in the reply. */
const answerIn = (client, id, texts) => {
  for (const text of texts.slice(0, -1)) client.socket.sayFrame({ op: "part", id, text });
  client.socket.sayFrame({ op: "reply", id, text: texts.at(-1) });
};

const messages = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => ({ data: from + i, at: `e.${from + i}` }));

/** All ways to cut a text in three between its characters. */
function* cuts(text) {
  const characters = [...text];
  const slice = (...range) => characters.slice(...range).join("");
  for (let i = 0; i <= characters.length; i++) {
    for (let j = i; j <= characters.length; j++) yield [slice(0, i), slice(i, j), slice(j)];
  }
}

/** Waits for the end of a call without keeping its error, whose stack would keep its function. */
const letGo = ({ answer, id }) => ({ id, over: answer.then(() => {}, () => {}) });

/** Counts the pieces that a client was sent from now on, and those that are still held. */
function watchPieces(t) {
  const pieces = [];
  const { parse } = JSON;
  JSON.parse = (text) => {
    const frame = parse(text);
    if (frame?.op === "part" || frame?.more) pieces.push(new WeakRef(frame));
    return frame;
  };
  t.after(() => (JSON.parse = parse));
  return { sent: () => pieces.length, held: () => pieces.filter((piece) => piece.deref()).length };
}

describe("an answer in pieces", () => {
  test("is joined wherever it was cut: at multi-byte characters, escapes, digits", async () => {
    const client = startV1(outside);
    const data = { "ü€": ['"\\\n\u0001', "😀é", -12.5e7, null, true] };
    const text = JSON.stringify(data).replace("é", "\\u00e9\\ud83d\\ude00");
    for (const texts of cuts(text)) {
      const { answer, id } = ask(client);
      answerIn(client, id, texts);
      assert.deepEqual(await answer, JSON.parse(text));
    }
  });

  test("may be any JSON, and have one piece or many", async () => {
    const client = startV1(outside);
    for (const text of ["null", "0", "false", '""', "[]", " [1]\n", JSON.stringify("x".repeat(100_000))]) {
      for (const texts of [[text], ["", text], [text, ""], [...text]]) {
        const { answer, id } = ask(client);
        answerIn(client, id, texts);
        assert.deepEqual(await answer, JSON.parse(text));
      }
    }
  });

  test("lets pings, publications and other answers through", async () => {
    const client = startV1(outside);
    const told = [];
    client.live.subscribe("t", (data) => told.push(data));
    client.socket.reply("subscribe", "t");
    const { answer, id } = ask(client);
    const published = client.live.publish("t", 1);
    client.socket.sayFrame({ op: "part", id, text: "[1," });
    client.socket.sayFrame({ op: "ping" });
    client.socket.say("t", "between");
    client.socket.reply("publish", "t", { at: "e.1" });
    assert.equal(await published, "e.1");
    assert.deepEqual(told, ["between"]);
    assert.deepEqual(client.socket.sent.at(-1), { op: "pong" });
    client.socket.sayFrame({ op: "reply", id, text: "2]" });
    assert.deepEqual(await answer, [1, 2]);
  });

  test("is not mixed with another that comes at the same time", async () => {
    const client = startV1(outside);
    const one = ask(client);
    const two = ask(client);
    const past = askHistory(client);
    client.socket.sayFrame({ op: "part", id: one.id, text: '["one' });
    client.socket.sayFrame({ op: "part", id: two.id, text: '["two' });
    client.socket.sayFrame({ op: "reply", id: past.id, messages: messages(1, 2), more: true });
    client.socket.sayFrame({ op: "part", id: two.id, text: ", 2" });
    client.socket.sayFrame({ op: "part", id: one.id, text: ", 1" });
    client.socket.sayFrame({ op: "reply", id: two.id, text: '"]' });
    client.socket.sayFrame({ op: "reply", id: past.id, messages: messages(3, 3) });
    client.socket.sayFrame({ op: "reply", id: one.id, text: '"]' });
    assert.deepEqual(await Promise.all([one.answer, two.answer, past.answer]), [["one, 1"], ["two, 2"], messages(1, 3)]);
  });

  test("may end in an error", async () => {
    const client = startV1(outside);
    const { answer, id } = ask(client);
    client.socket.sayFrame({ op: "part", id, text: "[1," });
    client.socket.sayFrame({ op: "error", id, code: "unavailable", message: "try again later" });
    await assert.rejects(answer, (err) => err instanceof LiveError && err.code === "unavailable");
  });

  test("that is no JSON rejects, and does no other harm", async () => {
    const client = startV1(outside);
    const { answer, id } = ask(client);
    answerIn(client, id, ["[1", "2,"]);
    await assert.rejects(answer, (err) => err instanceof LiveError && err.code === "bad_message");
    const { answer: next, id: nextId } = ask(client);
    answerIn(client, nextId, ["[1,", "2]"]);
    assert.deepEqual(await next, [1, 2]);
    assert.deepEqual(client.heard, []);
  });
});

describe("a history in several replies", () => {
  test("is joined in order", async () => {
    const client = startV1(outside);
    const { answer, id } = askHistory(client);
    client.socket.sayFrame({ op: "reply", id, messages: messages(1, 500), more: true });
    client.socket.sayFrame({ op: "reply", id, messages: messages(501, 502), more: true });
    client.socket.sayFrame({ op: "reply", id, messages: messages(503, 1000) });
    assert.deepEqual(await answer, messages(1, 1000));
  });

  test("may have empty ones", async () => {
    const client = startV1(outside);
    const { answer, id } = askHistory(client);
    client.socket.sayFrame({ op: "reply", id, messages: [], more: true });
    client.socket.sayFrame({ op: "reply", id, messages: messages(1, 1), more: true });
    client.socket.sayFrame({ op: "reply", id, messages: [] });
    assert.deepEqual(await answer, messages(1, 1));
  });

  test("may end in an error", async () => {
    const client = startV1(outside);
    const { answer, id } = askHistory(client);
    client.socket.sayFrame({ op: "reply", id, messages: messages(1, 1), more: true });
    client.socket.sayFrame({ op: "error", id, code: "unavailable", message: "try again later" });
    assert.equal(await codeOf(answer), "unavailable");
  });
});

const kinds = [
  ["pieces", ask, { op: "part", text: "1" }, { op: "reply", text: "1" }, (n) => +"1".repeat(n + 1)],
  [
    "several replies",
    (client, topic, options) => askHistory(client, options),
    { op: "reply", messages: [{ data: 1 }], more: true },
    { op: "reply", messages: [{ data: 1 }] },
    (n) => Array.from({ length: n + 1 }, () => ({ data: 1 })),
  ],
];
for (const [name, call, part, last, whole] of kinds) {
  describe(`an answer in ${name}`, () => {
    test("has its timeout anew with each: while they come it is alive", async () => {
      const client = startV1(outside);
      const { answer, id } = call(client, "a", { timeout: 1_000 });
      for (let i = 0; i < 5; i++) {
        outside.clock.advance(999);
        client.socket.sayFrame({ ...part, id });
      }
      outside.clock.advance(999);
      client.socket.sayFrame({ ...last, id });
      assert.deepEqual(await answer, whole(5));
      assert.equal(outside.clock.timers, 1, "only the check of the connection is left");
    });

    test("times out when no more come, and what comes then is ignored", async () => {
      const client = startV1(outside);
      const { answer, id } = call(client, "a", { timeout: 1_000 });
      outside.clock.advance(900);
      client.socket.sayFrame({ ...part, id });
      const code = codeOf(answer);
      outside.clock.advance(1_000);
      assert.equal(await code, "timeout");
      client.socket.sayFrame({ ...part, id });
      client.socket.sayFrame({ ...last, id });
      assert.deepEqual(client.heard, []);
      assert.equal(outside.clock.timers, 1);
    });

    test("may have no timeout", async () => {
      const client = startV1(outside);
      client.socket.sayFrame({ op: "hello", ping: 0 });
      const { answer, id } = call(client, "a", { timeout: Infinity });
      client.socket.sayFrame({ ...part, id });
      assert.equal(outside.clock.timers, 1);
      outside.clock.advance(24 * 3_600_000);
      client.socket.sayFrame({ ...last, id });
      assert.deepEqual(await answer, whole(1));
    });

    test("is given up between two by its signal", async () => {
      const client = startV1(outside);
      const abort = new AbortController();
      const { answer, id } = call(client, "a", { signal: abort.signal });
      client.socket.sayFrame({ ...part, id });
      abort.abort();
      assert.equal(await codeOf(answer), "aborted");
      client.socket.sayFrame({ ...part, id });
      client.socket.sayFrame({ ...last, id });
      assert.deepEqual(client.heard, []);
      assert.equal(outside.clock.timers, 1, "a part that comes too late starts no timer");
    });

    test("is disconnected when the connection breaks between two, and leaves nothing to the next", async () => {
      const client = startV1(outside);
      const { answer, id } = call(client, "a");
      client.socket.sayFrame({ ...part, id });
      const code = codeOf(answer);
      reconnect(outside, client);
      assert.equal(await code, "disconnected");
      assert.deepEqual(client.socket.sent, [], "it is not asked again");
      const next = call(client, "a");
      client.socket.sayFrame({ ...last, id: next.id });
      assert.deepEqual(await next.answer, whole(0));
    });

    const ends = {
      "its answer": (client, id) => client.socket.sayFrame({ ...last, id }),
      "an error": (client, id) => client.socket.sayFrame({ op: "error", id, code: "internal" }),
      "its timeout": () => outside.clock.advance(10_000),
      "its signal": (client, id, abort) => abort.abort(),
      "a lost connection": (client) => client.socket.end(),
      "close()": (client) => client.live.close(),
    };
    for (const [end, bring] of Object.entries(ends)) {
      test(`is forgotten after ${end}`, async (t) => {
        const client = startV1(outside);
        const pieces = watchPieces(t);
        const abort = new AbortController();
        const { over, id } = letGo(call(client, "a", { signal: abort.signal }));
        for (let i = 0; i < 3; i++) client.socket.sayFrame({ ...part, id });
        await collectGarbage();
        assert.equal(pieces.held(), 3, "they are kept until then");
        bring(client, id, abort);
        await over;
        if (client.live.state === "open") client.socket.sayFrame({ ...part, id });
        await collectGarbage(() => !pieces.held());
        assert.equal(pieces.held(), 0);
        assert.ok(pieces.sent() >= 3);
      });
    }
  });
}
