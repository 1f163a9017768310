// The chat where it keeps history on disk, alone and as a cluster of three, with servers that are killed.
/* global window */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest, launch, test } from "./browser.mjs";
import { chip, connected, gaps, heard, here, say, texts, visit } from "./chat.mjs";
import { freePort } from "../ports.mjs";
import { build, Server } from "./servers.mjs";

let chat, browser, store, servers, people;

before(async () => {
  chat = build("chat");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  chat?.remove();
});

beforeEach(() => {
  store = mkdtempSync(join(tmpdir(), "livetopic-"));
  servers = [];
  people = [];
});

afterEach(async () => {
  for (const { context } of people) await context.close();
  await Promise.all(servers.map((server) => server.kill()));
  rmSync(store, { recursive: true, force: true });
  for (const { faults } of people) assert.deepEqual(faults, [], "no page has failed");
});

/** Starts chats that form a cluster. */
async function startCluster(size) {
  const routes = await Promise.all(Array.from({ length: size }, async () => `127.0.0.1:${await freePort()}`));
  servers = routes.map((route, n) => {
    const own = ["-cluster", route, "-store", join(store, String(n)), `-builds=${n === 0}`];
    return new Server(chat.binary, "-routes", routes.join(","), ...own);
  });
  await Promise.all(servers.map((server) => server.start())); // one alone would wait for the others
}

/** The texts that a server has of the room. */
async function history(server) {
  const { messages } = await server.call("GET", "/rooms/general/messages");
  return messages.map(({ text }) => text);
}

test("history is there after a kill and a restart, and no page has a gap", async () => {
  const server = new Server(chat.binary, "-store", store);
  servers = [server];
  await server.start();
  const ana = await visit(browser, people, "Ana", { port: server.port });
  const bo = await visit(browser, people, "Bo", { port: server.port });
  await say(ana.page, "before");
  await heard(bo.page, "before");

  await server.kill();
  await chip(ana.page, /^Reconnecting/);
  await say(ana.page, "meanwhile");
  await server.start();
  await heard(bo.page, "meanwhile");
  await heard(ana.page, "meanwhile");
  await say(bo.page, "after");
  await heard(ana.page, "after");
  const all = ["before", "meanwhile", "after"];
  for (const { page } of [ana, bo]) {
    assert.deepEqual(await texts(page), all);
    assert.equal(await gaps(page), 0);
  }
  await here(ana.page, "Ana", "Bo");
  assert.deepEqual(await history(server), all);
});

chromiumTest("pages of different servers are in one chat, which goes on when a server is killed", async () => {
  await startCluster(3);
  const [a, b] = servers;
  const ana = await visit(browser, people, "Ana", { port: a.port });
  const bo = await visit(browser, people, "Bo", { port: b.port });
  await here(ana.page, "Ana", "Bo");
  await here(bo.page, "Ana", "Bo");
  await say(ana.page, "Hello, Bo!");
  await heard(bo.page, "Hello, Bo!");
  await say(bo.page, "Hello, Ana!");
  await heard(ana.page, "Hello, Ana!");

  await a.kill();
  await chip(ana.page, /^Reconnecting/);
  await say(bo.page, "missed");
  await heard(bo.page, "missed");
  await say(ana.page, "from the dark");
  await a.start();
  await ana.page.evaluate(() => window.dispatchEvent(new Event("online"))); // spares it the rest of its wait
  await connected(ana.page);
  await heard(ana.page, "missed");
  await heard(ana.page, "from the dark");
  await heard(bo.page, "from the dark");
  const all = ["Hello, Bo!", "Hello, Ana!", "missed", "from the dark"];
  for (const { page } of [ana, bo]) {
    assert.deepEqual(await texts(page), all);
    assert.equal(await gaps(page), 0);
    await here(page, "Ana", "Bo");
  }
  for (const server of servers) assert.deepEqual(await history(server), all);
});
