// Presence in real browsers: what each page shows of the others is true, and nobody seems to leave who comes back.
/* global dispatchEvent, document, events, lists, live, window */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach } from "node:test";
import { launch, noteErrors, test } from "./browser.mjs";
import { build, Network, Server } from "./servers.mjs";

const PATIENCE = 15_000; // ms for what must happen

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

/** A user with a browser of their own. The function that it returns opens another page of the user. */
async function person(user, { port = server.port } = {}) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  contexts.push(context);
  return async () => {
    const page = await context.newPage();
    noteErrors(page, faults);
    await page.goto(`http://127.0.0.1:${port}/presence?page=${encodeURIComponent(user)}&name=${nameOf(user)}`);
    await page.waitForFunction((id) => window.live?.presence("room").members.has(id), user);
    return page;
  };
}

const nameOf = (user) => user.toUpperCase();

/** Waits until a page knows these users, each with a number of pages, and no others. */
const sees = (page, people) =>
  page.waitForFunction(
    (wanted) => JSON.stringify([...live.presence("room").members].map(([id, { sessions }]) => [id, sessions.length]).sort()) === wanted,
    JSON.stringify(Object.entries(people).sort()),
  );

const eventsOf = (page) => page.evaluate(() => events);
const forget = (page) => page.evaluate(() => void events.splice(0));

/** Returns what a page was told until a user who leaves now has left. By then everybody who has ended before is told, too. */
async function eventsUntil(page, user, leave) {
  await page.waitForFunction((joined) => events.includes(joined), "+" + user);
  await leave();
  await page.waitForFunction((left) => events.includes(left), "-" + user);
  return (await eventsOf(page)).filter((event) => event.slice(1) !== user);
}

/** Checks each list that a page has shown: it has nobody twice, and everybody by their name. */
async function checkLists(page, ...users) {
  const names = users.map(nameOf);
  for (const list of await page.evaluate(() => lists)) {
    assert.equal(new Set(list).size, list.length, `${list} has somebody twice`);
    for (const line of list) assert.ok(names.includes(line.replace(" is typing", "")), `${line} is none of ${names}`);
  }
}

test("three tabs of a user are one member, who is called right throughout", async () => {
  const bo = await (await person("bo"))();
  const openAna = await person("__proto__");
  const tabs = [await openAna(), await openAna(), await openAna()];
  for (const page of [bo, ...tabs]) await sees(page, { bo: 1, ["__proto__"]: 3 });

  await tabs[1].fill("#text", "hello");
  await bo.waitForFunction(() => document.querySelector("#people").textContent.includes("__PROTO__ is typing"));
  await tabs[1].close();
  await tabs[0].close();
  await sees(bo, { bo: 1, ["__proto__"]: 1 });
  await bo.waitForFunction(() => !document.querySelector("#people").textContent.includes("typing"));
  await tabs[2].close();
  await sees(bo, { bo: 1 });
  const told = await eventsOf(bo);
  assert.deepEqual(told.filter((event) => !event.startsWith("~")), ["+__proto__", "-__proto__"]);
  await checkLists(bo, "bo", "__proto__");
});

test("a reload shows nothing to the others", async () => {
  const bo = await (await person("bo"))();
  const ana = await (await person("ana"))();
  await sees(bo, { ana: 1, bo: 1 });
  await forget(bo);
  await ana.reload();
  await ana.waitForFunction(() => window.live?.presence("room").members.has("bo"));
  const dan = await (await person("dan"))();
  assert.deepEqual(await eventsUntil(bo, "dan", () => dan.close()), []);
  await sees(bo, { ana: 1, bo: 1 });
  await checkLists(bo, "ana", "bo", "dan");
});

test("a lost connection shows nothing to anybody, if it is back soon", async () => {
  const bo = await (await person("bo"))();
  const ana = await (await person("ana", { port: network.port }))();
  await sees(bo, { ana: 1, bo: 1 });
  await sees(ana, { ana: 1, bo: 1 });
  await Promise.all([forget(ana), forget(bo)]);
  const old = await ana.evaluate(() => live.session);
  network.drop();
  await ana.waitForFunction((session) => live.state === "open" && live.session !== session, old);
  const dan = await (await person("dan"))();
  await ana.waitForFunction(() => events.includes("+dan"));
  assert.deepEqual(await eventsUntil(bo, "dan", () => dan.close()), []);
  assert.deepEqual(await eventsUntil(ana, "dan", () => {}), []);
});

test("a page that sleeps is told what has changed when it wakes, and no more", async () => {
  const bo = await (await person("bo"))();
  const cy = await (await person("cy"))();
  const ana = await (await person("ana", { port: network.port }))();
  await sees(ana, { ana: 1, bo: 1, cy: 1 });
  await forget(ana);
  const old = await ana.evaluate(() => live.session);
  network.strand(); // the page does not see it
  await sees(bo, { bo: 1, cy: 1 }); // it was away for longer than the grace
  await cy.close();
  await (await person("dan"))();
  await sees(bo, { bo: 1, dan: 1 });
  assert.deepEqual(await eventsOf(ana), []);

  await ana.waitForFunction((session) => {
    dispatchEvent(new Event("focus"));
    return live.session !== session;
  }, old);
  for (const page of [ana, bo]) await sees(page, { ana: 1, bo: 1, dan: 1 });
  assert.deepEqual((await eventsOf(ana)).sort(), ["+dan", "-cy"]);
  assert.deepEqual(await ana.evaluate(() => [document.querySelector("#count").value, live.presence("room").count]), ["3", 3]);
  await checkLists(ana, "ana", "bo", "cy", "dan");
});
