// The hooks in real frameworks, in the components of docs/javascript.md, with a real server.
/* global dispatchEvent, document, live, setShown, setTopic, window */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { bundle } from "./bundles.mjs";
import { build, Network, Server } from "./servers.mjs";
import { blocksOf } from "../snippets.mjs";

const PATIENCE = 15_000; // ms for what must happen

const frameworks = {
  "React in StrictMode": () => bundle("react.jsx"),
  Vue: () => bundle("vue.js"),
  "Svelte 5": () => bundle("svelte5.js"),
  "Svelte 4": () => bundle("svelte4.js", "svelte4"),
};

let program, browser, server, network, contexts, faults;

before(async () => {
  program = build("testserver");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  program?.remove();
});

beforeEach(async () => {
  contexts = [];
  faults = [];
  server = new Server(program.binary);
  await server.start();
  network = new Network();
  await network.listen(server.port);
});

afterEach(async () => {
  for (const context of contexts) await context.close();
  network.close();
  await server.kill();
  assert.deepEqual(faults, [], "no page has failed");
});

/** A page of a user, in which the app runs. */
async function open(user, app, port) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  contexts.push(context);
  const page = await context.newPage();
  noteErrors(page, faults);
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource|\bws:\/\//.test(message.text())) faults.push(message.text()); // a framework's warning
  });
  await page.addInitScript(() => {
    const { send } = WebSocket.prototype;
    window.frames = [];
    WebSocket.prototype.send = function (text) {
      window.frames.push(...[JSON.parse(text)].flat());
      send.call(this, text);
    };
  });
  await page.goto(`http://127.0.0.1:${port}/elsewhere?page=${user}`);
  await page.addScriptTag({ content: app });
  return page;
}

/** Waits until a list has these items. */
const shows = (page, selector, ...items) =>
  page.waitForFunction(
    ([wanted, texts]) => document.querySelector(wanted) && JSON.stringify([...document.querySelectorAll(wanted + " li")].map((li) => li.textContent)) === texts,
    [selector, JSON.stringify(items)],
  );

/** Both rooms of a page have these messages. */
async function reads(page, ...texts) {
  for (const room of ["#first", "#second"]) await shows(page, `${room} .messages`, ...texts);
}

const say = (page, topic, text) => page.evaluate(([to, data]) => live.publish(to, { text: data }), [topic, text]);

/** How many times the page has asked for something. */
const asked = (page, op, topic) =>
  page.evaluate(([wanted, of]) => window.frames.filter((frame) => frame.op === wanted && frame.topic === of).length, [op, topic]);

/** Waits until the server has this number of sessions in a topic. */
async function subscribers(topic, count) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const stats = await server.call("GET", "/stats?topic=" + encodeURIComponent(topic));
    if (stats.subscribers === count) return;
    assert.ok(Date.now() < deadline, `${topic} has ${stats.subscribers} subscribers, want ${count}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const [name, bundled] of Object.entries(frameworks)) {
  test(`the hooks in ${name}`, async () => {
    const app = await bundled();
    const bo = await open("bo", app, server.port);
    await shows(bo, "#first .people", "bo");
    await say(bo, "room:a", "one");
    await say(bo, "room:b", "other");
    await bo.evaluate(() => live.publish("scores", { player: "bo", score: 1 }));
    await bo.evaluate(() => live.publish("votes", "yes"));

    // Both rooms of a page share one subscription, in which the state, the table and who is present are right.
    const ana = await open("ana", app, network.port);
    await reads(ana, "one");
    for (const page of [ana, bo]) await shows(page, "#second .people", "bo", "ana");
    await shows(ana, ".scores", "bo: 1");
    await shows(ana, ".votes", "bo: yes");
    await bo.evaluate(() => live.publish("scores", { player: "ana", score: 2 }));
    await bo.evaluate(() => live.publish("votes", "no"));
    await shows(ana, ".scores", "bo: 1", "ana: 2");
    await shows(ana, ".votes", "bo: no");
    for (const topic of ["room:a", "scores", "votes"]) {
      assert.deepEqual([await asked(ana, "subscribe", topic), await asked(ana, "unsubscribe", topic)], [1, 0], topic);
    }

    // Another topic, and back.
    await ana.evaluate(() => setTopic("room:b"));
    await reads(ana, "other");
    await shows(ana, "#first .people", "ana");
    await shows(bo, "#first .people", "bo");
    await subscribers("room:a", 1);
    await ana.evaluate(() => setTopic("room:a"));
    await reads(ana, "one");
    await subscribers("room:b", 0);

    // A connection that is lost.
    network.cut();
    await say(bo, "room:a", "missed");
    await ana.waitForFunction(() => live.state === "waiting");
    network.mend();
    await ana.evaluate(() => live.reconnect());
    await reads(ana, "one", "missed");
    await shows(bo, "#first .people", "bo", "ana");
    assert.equal(await ana.evaluate(() => document.querySelector(".gap")), null);

    // A server that forgets.
    await server.kill();
    await ana.waitForFunction(() => live.state === "waiting");
    await server.start();
    for (const page of [ana, bo]) await page.evaluate(() => dispatchEvent(new Event("online")));
    await ana.waitForFunction(() => document.querySelectorAll(".gap").length === 2);
    await say(bo, "room:a", "anew");
    await reads(ana, "one", "missed", "anew");
    await shows(ana, ".votes");
    await shows(ana, ".scores");

    // What is unmounted is let go, however often.
    await bo.close();
    await ana.evaluate(async () => {
      for (let i = 0; i < 21; i++) {
        setShown(i % 2 === 1);
        await new Promise((resolve) => setTimeout(resolve));
      }
    });
    for (const topic of ["room:a", "scores", "votes"]) await subscribers(topic, 0);
    assert.equal(await ana.evaluate(() => live.presence("room:a").count), undefined);
    await ana.evaluate(() => setShown(true));
    await reads(ana, "anew");
    await shows(ana, "#second .people", "ana");
    await subscribers("room:a", 1);
  });
}

test("a page without a bundler imports what the server has, by an import map if need be", async () => {
  const page = await open("ana", ";", server.port);
  const [script] = blocksOf("docs/javascript.md", "html");
  await page.setContent(script);
  for (const deadline = Date.now() + PATIENCE; (await server.call("GET", "/stats")).sessions !== 1; ) {
    assert.ok(Date.now() < deadline, "it did not connect");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await page.goto(`http://127.0.0.1:${server.port}/elsewhere`);
  const vue = readFileSync(new URL("../../node_modules/vue/dist/vue.esm-browser.prod.js", import.meta.url));
  await page.route("**/vue.esm-browser.prod.js", (route) => route.fulfill({ contentType: "text/javascript", body: vue }));
  const map = blocksOf("docs/javascript.md", "html").find((code) => code.includes("importmap"));
  await page.setContent(`${map}<p></p><script type="module">
    import { connect } from "livetopic";
    import { useTopic } from "livetopic/vue";
    import { effectScope, watchEffect } from "vue";
    const live = (window.live = connect("/live?page=ana"));
    effectScope().run(() => {
      const { newest } = useTopic(live, "room:a");
      watchEffect(() => (document.querySelector("p").textContent = newest.value?.data.text));
    });
  </script>`);
  await page.waitForFunction(() => window.live?.state === "open");
  await say(page, "room:a", "hello");
  await page.waitForFunction(() => document.querySelector("p").textContent === "hello");
});
