// Pages whose globals are frozen, or have been extended by an old library. Each runs in a worker of its own.
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";

const PAGE = `
  const { parentPort } = require("node:worker_threads");
  const run = async () => {
    const { connect } = await import(${JSON.stringify(new URL("../live.js", import.meta.url).href)});
    const { FakeSocket } = await import(${JSON.stringify(new URL("fakes.mjs", import.meta.url).href)});
    SPOIL;
    let socket;
    class WebSocket extends FakeSocket {
      constructor(...given) {
        super(...given);
        socket = this;
      }
    }
    const told = [];
    const live = connect("ws://server/live?a=1", { WebSocket, query: { b: "2" }, backoff: { min: 1 } });
    live.on("error", (err) => told.push(String(err)));
    live.subscribe("a", (data) => told.push(data), { last: 2, onGap: () => told.push("gap"), onJoin: ({ id }) => told.push(id) });
    socket.greet();
    socket.reply("subscribe", "a", { at: "e.1", messages: [{ data: 1, at: "e.1" }] });
    socket.sayFrame({ op: "presence", topic: "a", members: [] });
    socket.sayFrame({ op: "presence", topic: "a", joined: [{ id: "ann", sessions: [null] }] });
    const refused = live.publish("a", { text: "x" });
    socket.refuse("publish", "a", "forbidden");
    told.push(String(await refused.catch((err) => err)), String(await live.publish("a", 1n).catch((err) => err)).slice(0, 9));
    told.push(socket.url, socket.sent.flat()[0]);
    live.close();
    parentPort.postMessage(told);
  };
  run();
`;

const TOLD = [1, "ann", "LiveError: live: not allowed", "TypeError", "ws://server/live?a=1&b=2", { op: "subscribe", id: 1, topic: "a", last: 2 }];

for (const [how, spoil] of [
  ["are as they were", ""],
  ["are frozen", "for (const kind of [Object, Function, Array, Error, TypeError, Map, Set, Promise, String, RegExp, Number, URL]) Object.freeze(kind.prototype)"],
  ["have enumerable members", "Object.assign(Object.prototype, { extend() {}, nothing: null }); Array.prototype.remove = () => {}; Function.prototype.curry = 1"],
]) {
  test(`a page works whose prototypes ${how}`, async () => {
    const page = new Worker(PAGE.replace("SPOIL", spoil), { eval: true });
    const [told] = await once(page, "message");
    assert.deepEqual(told, TOLD);
    await page.terminate();
  });
}
