// The hooks, as Svelte's stores have them: what they show, what they share, and when they let go.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as react from "livetopic/react";
import * as vue from "livetopic/vue";
import { createElement } from "react";
import { renderToString as renderReact } from "react-dom/server";
import { createSSRApp, effectScope, h, nextTick, reactive, ref } from "vue";
import { renderToString as renderVue } from "vue/server-renderer";
import { useLiveState, usePresence, useTopic } from "livetopic/svelte";
import { reconnect, settled, setUp, startV1 } from "./fakes.mjs";

const outside = setUp();

/** Subscribes to a store, and keeps each value that it shows. */
function watch(store) {
  const values = [];
  const stop = store.subscribe((value) => values.push(value));
  return { values, stop, last: () => values.at(-1) };
}

const textsOf = ({ messages }) => messages.map(({ data }) => data);
const ops = (client, name) => client.socket.sent.flat().filter(({ op }) => op === name);
const answer = (client, op, topic, more) => client.socket.reply(op, topic, more);
const sum = (total = 0, change) => total + change;

describe("useTopic", () => {
  test("begins empty, then shows the last messages and each new one", async () => {
    const client = startV1(outside);
    const { values, last } = watch(useTopic(client.live, "news", { last: 2 }));
    const none = { gap: undefined, error: undefined, ready: false };
    assert.deepEqual(values, [{ messages: [], newest: undefined, ...none }]);
    assert.equal(ops(client, "subscribe")[0].last, 2);
    answer(client, "subscribe", "news", { at: "e.2", messages: [{ data: "a", at: "e.1" }, { data: "b", at: "e.2" }] });
    client.socket.say("news", "c", "e.3");
    await settled();
    assert.deepEqual(textsOf(last()), ["a", "b", "c"]);
    assert.deepEqual(last().newest, { topic: "news", data: "c", at: "e.3" });
    assert.equal(last().ready, true);
    assert.equal(last().messages[0].recovered, true);
  });

  test("shows many messages that come at once as one value", async () => {
    const client = startV1(outside);
    const { values } = watch(useTopic(client.live, "news", { last: 50 }));
    const messages = Array.from({ length: 50 }, (_, n) => ({ data: n, at: `e.${n}` }));
    answer(client, "subscribe", "news", { at: "e.49", messages });
    await settled();
    assert.deepEqual(values.map(({ messages: all, ready }) => [all.length, ready]), [[0, false], [50, true]]);
  });

  test("keeps the newest messages only", async () => {
    const client = startV1(outside);
    const few = watch(useTopic(client.live, "news", { limit: 2 }));
    const many = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "news");
    for (let n = 1; n <= 101; n++) client.socket.say("news", n);
    await settled();
    assert.deepEqual(textsOf(few.last()), [100, 101]);
    assert.deepEqual([many.last().messages.length, textsOf(many.last())[0]], [100, 2]);
  });

  test("tells once that a limit is wrong, and takes the default", async (t) => {
    const told = t.mock.method(console, "error", () => {}).mock;
    const client = startV1(outside);
    const views = [{ limit: NaN }, { limit: -1 }, { limit: "few" }, { limit: null }, { last: NaN }].map((options, n) => watch(useTopic(client.live, `t${n}`, options)));
    const again = watch(useTopic(client.live, "t1", { limit: -1 }));
    const unlimited = watch(useTopic(client.live, "t1", { limit: Infinity }));
    for (let n = 0; n < views.length; n++) {
      answer(client, "subscribe", `t${n}`);
      for (let i = 1; i <= 101; i++) client.socket.say(`t${n}`, i);
    }
    await settled();
    for (const { last } of [...views, again]) assert.deepEqual([last().messages.length, textsOf(last())[0]], [100, 2]);
    assert.equal(unlimited.last().messages.length, 101);
    assert.deepEqual(told.calls.map(({ arguments: [err] }) => /limit (.*) is/.exec(err.message)[1]), ["NaN", "-1", "few"]);
  });

  test("leaves a value as it was when another message comes", async () => {
    const client = startV1(outside);
    const { last } = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "news");
    client.socket.say("news", 1);
    await settled();
    const before = last();
    client.socket.say("news", 2);
    await settled();
    assert.deepEqual([textsOf(before), textsOf(last())], [[1], [1, 2]]);
  });

  test("tells of gaps, each time by a new object", async () => {
    const client = startV1(outside);
    const { last } = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "news");
    client.socket.sayFrame({ op: "gap", topic: "news" });
    await settled();
    const first = last().gap;
    assert.deepEqual(first, { topic: "news", reason: "lost" });
    client.socket.sayFrame({ op: "gap", topic: "news" });
    await settled();
    assert.notEqual(last().gap, first);
  });

  test("goes on after a reconnect with what was missed", async () => {
    const client = startV1(outside);
    const { last } = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "news", { at: "e.1" });
    client.socket.say("news", 2, "e.2");
    reconnect(outside, client);
    assert.equal(ops(client, "subscribe")[0].since, "e.2");
    answer(client, "subscribe", "news", { at: "e.3", recovered: true, messages: [{ data: 3, at: "e.3" }] });
    await settled();
    assert.deepEqual([textsOf(last()), last().gap], [[2, 3], undefined]);
  });

  test("asks for the last messages of a topic that is subscribed already", async () => {
    const client = startV1(outside);
    client.live.subscribe("news", () => {});
    answer(client, "subscribe", "news", { at: "e.8" });
    const { last } = watch(useTopic(client.live, "news", { last: 3 }));
    await settled();
    for (const n of [9, 10, 11]) client.socket.say("news", n, `e.${n}`); // before the answer, which begins with the second of them
    assert.deepEqual(ops(client, "history").map(({ topic, limit }) => [topic, limit]), [["news", 3]]);
    const past = [10, 11, 12].map((n) => ({ data: n, at: `e.${n}` }));
    answer(client, "history", "news", { messages: past });
    client.socket.say("news", 12, "e.12"); // it was in the answer
    client.socket.say("news", 13, "e.13");
    await settled();
    assert.deepEqual(textsOf(last()), [10, 11, 12, 13]);
    assert.deepEqual(last().messages[0], { topic: "news", data: 10, at: "e.10", recovered: true });
    assert.equal(last().error, undefined);
  });

  test("asks for the last messages again if the connection breaks", async () => {
    const client = startV1(outside);
    client.live.subscribe("news", () => {});
    answer(client, "subscribe", "news", { at: "e.3" });
    const { last, stop } = watch(useTopic(client.live, "news", { last: 1 }));
    await settled();
    reconnect(outside, client);
    await settled();
    assert.equal(ops(client, "history").length, 1);
    client.socket.refuse("history", "news", "no_history");
    await settled();
    assert.equal(last().error.code, "no_history");
    stop();
  });

  test("asks the first time for nothing but the subscription", async () => {
    const client = startV1(outside);
    watch(useTopic(client.live, "news", { last: 3 }));
    answer(client, "subscribe", "news", { at: "e.0" });
    await settled();
    assert.deepEqual(ops(client, "history"), []);
  });

  test("shows a message once if the state of the topic is asked for again", async () => {
    const client = startV1(outside);
    const { last } = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "news", { at: "e.0" });
    client.socket.say("news", 1, "e.1");
    watch(useLiveState(client.live, "news", { fold: sum }));
    answer(client, "subscribe", "news", { at: "e.0", state: 0 });
    client.socket.say("news", 1, "e.1");
    client.socket.say("news", 2, "e.2");
    await settled();
    assert.deepEqual(textsOf(last()), [1, 2]);
  });

  test("shows why the server refuses", async () => {
    const client = startV1(outside);
    const { last } = watch(useTopic(client.live, "secret"));
    client.socket.refuse("subscribe", "secret", "forbidden");
    await settled();
    assert.deepEqual([last().error.code, last().ready], ["forbidden", false]);
  });

  test("shows that the server refuses after a reconnect, and that the client has ended", async () => {
    const client = startV1(outside);
    const secret = watch(useTopic(client.live, "secret"));
    const news = watch(useTopic(client.live, "news"));
    answer(client, "subscribe", "secret", {});
    answer(client, "subscribe", "news", {});
    await settled();
    reconnect(outside, client);
    client.socket.refuse("subscribe", "secret", "forbidden");
    answer(client, "subscribe", "news", {});
    await settled();
    assert.deepEqual([secret.last().error.code, secret.last().ready], ["forbidden", false]);
    assert.deepEqual([news.last().error, news.last().ready], [undefined, true]);
    client.live.close();
    await settled();
    assert.deepEqual([news.last().error.code, news.last().ready], ["closed", false]);
  });

  test("shows errors that subscribe throws", async () => {
    const client = startV1(outside);
    client.live.close();
    const ended = watch(useTopic(client.live, "news"));
    const other = startV1(outside);
    const odd = watch(useTopic(other.live, "\ud800"));
    await settled();
    assert.equal(ended.last().error.code, "closed");
    assert.ok(odd.last().error instanceof TypeError);
  });

  test("is empty without a client or a topic", async () => {
    const client = startV1(outside);
    for (const [live, topic] of [[null, "news"], [undefined, "news"], [false, "news"], [client.live, null], [client.live, ""]]) {
      const { values, stop } = watch(useTopic(live, topic));
      await settled();
      assert.equal(values.length, 1);
      assert.equal(values[0].ready, false);
      stop();
    }
    assert.deepEqual(client.socket.sent, []);
  });
});

describe("useLiveState", () => {
  test("folds what comes after the state", async () => {
    const client = startV1(outside);
    const { last } = watch(useLiveState(client.live, "total", { fold: sum }));
    assert.equal(last().state, undefined);
    answer(client, "subscribe", "total", { at: "e.5", state: 40 });
    client.socket.say("total", 2, "e.6");
    await settled();
    assert.equal(last().state, 42);
    reconnect(outside, client);
    answer(client, "subscribe", "total", { at: "e.9", state: 7 });
    await settled();
    assert.equal(last().state, 7, "a new state takes the old one's place");
  });

  test("gives fold the message, and goes on when fold has thrown", async () => {
    const client = startV1(outside);
    const seen = [];
    const fold = (state, data, message) => {
      if (data === "bad") throw new Error("bad");
      seen.push([state, data, message.at]);
      return data;
    };
    const { last } = watch(useLiveState(client.live, "total", { fold }));
    answer(client, "subscribe", "total", { at: "e.0" });
    for (const [n, data] of ["a", "bad", "b"].entries()) client.socket.say("total", data, `e.${n + 1}`);
    await settled();
    assert.deepEqual(seen, [[undefined, "a", "e.1"], ["a", "b", "e.3"]]);
    assert.equal(last().state, "b");
    assert.equal(client.last("error").message, "bad");
  });

  test("is a Map of a keyed topic, new after each change", async () => {
    const client = startV1(outside);
    const { values, last } = watch(useLiveState(client.live, "cursors"));
    assert.equal(last().state.size, 0);
    const messages = [{ key: "ann", data: 1 }, { key: "bo", data: 2 }];
    answer(client, "subscribe", "cursors", { keyed: true, at: "e.2", messages });
    await settled();
    const before = last().state;
    assert.deepEqual([...before], [["ann", 1], ["bo", 2]]);
    client.socket.sayFrame({ topic: "cursors", key: "ann", removed: true, at: "e.3" });
    await settled();
    assert.deepEqual([...last().state], [["bo", 2]]);
    assert.equal(before.size, 2);

    const shown = values.length;
    reconnect(outside, client);
    answer(client, "subscribe", "cursors", { keyed: true, at: "f.1", messages: [{ key: "cy", data: 3 }] });
    await settled();
    assert.deepEqual([...last().state], [["cy", 3]]);
    assert.equal(values.length, shown + 1, "nobody saw the Map while it was empty");
  });

  test("shows the keys that the client has already", async () => {
    const client = startV1(outside);
    client.live.subscribe("cursors", () => {});
    answer(client, "subscribe", "cursors", { keyed: true, at: "e.1", messages: [{ key: "ann", data: 1 }] });
    const { last } = watch(useLiveState(client.live, "cursors"));
    await settled();
    assert.deepEqual([...last().state], [["ann", 1]]);
  });

  test("with another fold has another state", async () => {
    const client = startV1(outside);
    const total = watch(useLiveState(client.live, "total", { fold: sum }));
    const count = watch(useLiveState(client.live, "total", { fold: (n = 0) => n + 1 }));
    answer(client, "subscribe", "total", { at: "e.0" });
    client.socket.say("total", 5, "e.1");
    client.socket.say("total", 5, "e.2");
    await settled();
    assert.deepEqual([total.last().state, count.last().state], [10, 2]);
  });
});

describe("usePresence", () => {
  const say = (client, more) => client.socket.sayFrame({ op: "presence", topic: "room", ...more });

  test("shows who is there", async () => {
    const client = startV1(outside);
    const { values, last } = watch(usePresence(client.live, "room", { info: { name: "Ann" }, unseen: true }));
    assert.deepEqual([last().members, last().count], [[], undefined]);
    const [{ info, unseen }] = ops(client, "subscribe");
    assert.deepEqual([info, unseen], [{ name: "Ann" }, true]);
    answer(client, "subscribe", "room");
    say(client, { members: [{ id: "ann", sessions: [null] }] });
    say(client, { joined: [{ id: "bo", sessions: [1] }] });
    await settled();
    assert.deepEqual(last().members, [{ id: "ann", sessions: [null] }, { id: "bo", sessions: [1] }]);
    assert.equal(last().count, 2);

    const shown = values.length;
    client.socket.say("room", "a message");
    await settled();
    assert.equal(values.length, shown, "messages are no change of presence");
    say(client, { left: ["ann"] });
    await settled();
    assert.deepEqual(last().members, [{ id: "bo", sessions: [1] }]);
  });
});

describe("a subscription of hooks", () => {
  test("is shared by stores of one topic and ends with the last of them", async () => {
    const client = startV1(outside);
    const one = watch(useTopic(client.live, "news", { last: 5 }));
    const two = watch(useTopic(client.live, "news", { last: 5 }));
    answer(client, "subscribe", "news", { at: "e.1", messages: [{ data: 1, at: "e.1" }] });
    await settled();
    assert.equal(one.last(), two.last(), "they show the same object");
    one.stop();
    await settled();
    assert.deepEqual(ops(client, "unsubscribe"), []);
    const three = watch(useTopic(client.live, "news", { last: 5 }));
    assert.equal(three.values[0], two.last(), "who comes later begins with what is there");
    two.stop();
    three.stop();
    await settled();
    assert.deepEqual(ops(client, "unsubscribe").map(({ topic }) => topic), ["news"]);
    assert.equal(ops(client, "subscribe").length, 1);
    client.socket.say("news", 2);
    await settled();
    assert.equal(one.values.length + two.values.length, 2 * one.values.length, "nobody hears of it");
    assert.deepEqual(textsOf(two.last()), [1]);
  });

  test("goes on if a store is left and subscribed again at once", async () => {
    const client = startV1(outside);
    const store = useTopic(client.live, "news");
    watch(store).stop();
    const { last } = watch(store);
    answer(client, "subscribe", "news");
    client.socket.say("news", 1);
    await settled();
    assert.deepEqual(textsOf(last()), [1]);
    assert.deepEqual([ops(client, "subscribe").length, ops(client, "unsubscribe").length], [1, 0]);
  });

  test("begins anew after it has ended", async () => {
    const client = startV1(outside);
    const store = useTopic(client.live, "news");
    const first = watch(store);
    answer(client, "subscribe", "news");
    client.socket.say("news", 1);
    await settled();
    first.stop();
    await settled();
    const { values, last } = watch(store);
    first.stop(); // once more does nothing
    await settled();
    client.socket.say("news", 2);
    await settled();
    assert.deepEqual(textsOf(values[0]), [], "what came before its end is not shown as new");
    assert.deepEqual(textsOf(last()), [2]);
    assert.equal(watch(store).last(), last(), "the new store is the one that is shared");
    assert.equal(ops(client, "subscribe").length, 2);
  });

  test("two clients share nothing", async () => {
    const [a, b] = [startV1(outside), startV1(outside)];
    const [one, two] = [a, b].map(({ live }) => watch(useTopic(live, "news")));
    for (const client of [a, b]) answer(client, "subscribe", "news");
    a.socket.say("news", 1);
    await settled();
    assert.deepEqual([textsOf(one.last()), textsOf(two.last())], [[1], []]);
  });
});

describe("on a server that renders pages", () => {
  test("React's hooks show an empty view", async () => {
    const client = startV1(outside);
    watch(useTopic(client.live, "news", { last: 5 }));
    answer(client, "subscribe", "news", { at: "e.1", messages: [{ data: 1, at: "e.1" }] });
    await settled();
    for (const live of [null, client.live]) {
      const Page = () => {
        const { messages, ready } = react.useTopic(live, "news", { last: 5 });
        const { state } = react.useLiveState(live, "votes");
        const { members } = react.usePresence(live, "room");
        return createElement("p", null, JSON.stringify([messages, ready, state.size, members]));
      };
      assert.equal(renderReact(createElement(Page)), "<p>[[],false,0,[]]</p>");
    }
    await settled();
    assert.deepEqual(ops(client, "subscribe").map(({ topic }) => topic), ["news"], "nothing is subscribed that would never end");
  });

  test("Vue's composables show an empty view", async () => {
    const app = createSSRApp(() => {
      const { messages, ready } = vue.useTopic(null, "news");
      const { state } = vue.useLiveState(null, "scores", { fold: sum });
      return h("p", JSON.stringify([messages.value, ready.value, state.value ?? null]));
    });
    assert.equal(await renderVue(app), "<p>[[],false,null]</p>");
  });
});

test("Vue's composables take a reactive client and follow refs until the scope ends", async () => {
  const client = startV1(outside);
  const topic = ref("a");
  const scope = effectScope();
  const { newest } = scope.run(() => vue.useTopic(() => reactive({ live: client.live }).live, topic));
  answer(client, "subscribe", "a");
  client.socket.say("a", 1);
  await settled();
  assert.equal(newest.value.data, 1);
  topic.value = "b";
  await nextTick();
  assert.equal(newest.value, undefined);
  await settled();
  scope.stop();
  await settled();
  assert.deepEqual(ops(client, "subscribe").map((frame) => frame.topic), ["a", "b"]);
  assert.deepEqual(ops(client, "unsubscribe").map((frame) => frame.topic), ["a", "b"]);
});

test("a listener that throws does not stop the others, and one that has left hears nothing", async (context) => {
  const client = startV1(outside);
  const store = useTopic(client.live, "news");
  const errors = context.mock.method(console, "error", () => {}).mock;
  let calls = 0;
  store.subscribe(() => {
    if (!calls++) return; // the value at first
    leaves.stop();
    throw new Error("from a listener");
  });
  const leaves = watch(store);
  const stays = watch(store);
  client.socket.say("news", 1);
  await settled();
  assert.deepEqual(errors.calls.map(({ arguments: [err] }) => err.message), ["from a listener"]);
  assert.deepEqual(textsOf(stays.last()), [1]);
  assert.equal(leaves.values.length, 1);
});
