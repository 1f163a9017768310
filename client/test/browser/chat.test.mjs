// The chat of examples/ in real browsers.
/* global document, getComputedStyle, innerWidth, location, MutationObserver, requestAnimationFrame, window */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest, inFirefox, launch, test } from "./browser.mjs";
import { chip, connected, countOf, gaps, heard, here, reads, rename, say, texts, visit as visitAt } from "./chat.mjs";
import { build, Network, Server } from "./servers.mjs";

const PHONE = { width: 360, height: 640 };

let chat, browser, server, people;

before(async () => {
  chat = build("chat");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  chat?.remove();
});

beforeEach(async () => {
  people = [];
  server = new Server(chat.binary, "-store", "");
  await server.start();
});

afterEach(async () => {
  for (const { context } of people) await context.close();
  // Firefox keeps connections on which it has asked nothing yet. http.Server.Shutdown waits some seconds for their requests.
  if (inFirefox) await server.kill();
  else assert.equal(await server.stop(), 0, "the chat ends as it should");
  for (const { faults } of people) assert.deepEqual(faults, [], "no page has failed");
});

const visit = (name, options) => visitAt(browser, people, name, { port: server.port, ...options });

/** Says something over HTTP, as curl does. */
const post = (room, name, text) => server.call("POST", "/publish", { topic: "room:" + room, data: { name, text } });

/** What the log says between the messages. */
const notes = (page) => page.evaluate(() => [...document.querySelectorAll(".note")].map((item) => item.textContent));

const overflow = (page) =>
  page.evaluate(() => {
    const tooWide = [...document.querySelectorAll("main, main *")].filter(
      (item) => item.scrollWidth > item.clientWidth + 1 && getComputedStyle(item).overflowX === "auto",
    );
    return document.documentElement.scrollWidth > innerWidth || tooWide.length > 0;
  });

test("what one says the other sees", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  await say(ana.page, "Hello, Bo!");
  await heard(bo.page, "Hello, Bo!");
  await heard(ana.page, "Hello, Bo!");
  assert.equal(await countOf(ana.page, ".message.mine"), 1);
  assert.equal(await countOf(bo.page, ".message.mine"), 0);
  assert.match(await bo.page.evaluate(() => document.querySelector(".message").innerText), /^A\s+Ana\s+Hello, Bo!/);
  await post("general", "curl", "From a terminal");
  await heard(bo.page, "From a terminal");
  await heard(ana.page, "From a terminal");
});

chromiumTest("who is typing is seen by the others, until it is sent or given up", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  await here(ana.page, "Ana", "Bo");
  await bo.page.fill("#text", "hel");
  await reads(ana.page, "#typing", /^Bo is typing…$/);
  await bo.page.press("#text", "Enter");
  await reads(ana.page, "#typing", /^$/);
  await bo.page.fill("#text", "never mind");
  await reads(ana.page, "#typing", /^Bo is typing…$/);
  await bo.page.fill("#text", "");
  await reads(ana.page, "#typing", /^$/);
  assert.equal(await bo.page.textContent("#typing"), "", "nobody is told of himself");
});

chromiumTest("who stops to write while the line is cut is not shown as typing when it is mended", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo", { clock: true });
  await here(ana.page, "Ana", "Bo");
  await bo.page.fill("#text", "hel");
  await reads(ana.page, "#typing", /^Bo is typing…$/);
  await bo.page.click("#cut");
  await bo.page.fill("#text", "");
  await here(ana.page, "Ana");
  await bo.page.clock.runFor(11_000); // longer than a call waits
  await bo.page.click("#mend");
  await here(ana.page, "Ana", "Bo");
  await reads(ana.page, "#typing", /^$/);
});

chromiumTest("the list says who is here", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  await here(ana.page, "Ana", "Bo");
  await here(bo.page, "Ana", "Bo");
  const second = await bo.open();
  await reads(ana.page, "#people", /2 tabs/);
  await here(ana.page, "Ana", "Bo");
  await second.close();
  await bo.page.close();
  await here(ana.page, "Ana");
});

test("a reload keeps the name, and shows the history once", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  for (const text of ["one", "two", "three"]) await say(bo.page, text);
  await say(ana.page, "four");
  await heard(bo.page, "four");
  await rename(ana.page, "Anna");
  await here(bo.page, "Anna", "Bo");
  await bo.page.evaluate(() => {
    window.counts = [];
    new MutationObserver(() => window.counts.push(document.getElementById("count").textContent)).observe(
      document.getElementById("count"),
      { childList: true },
    );
  });

  await ana.page.reload();
  await connected(ana.page);
  await heard(ana.page, "four");
  assert.equal(await ana.page.evaluate(() => document.getElementById("name").value), "Anna");
  assert.deepEqual(await texts(ana.page), ["one", "two", "three", "four"]);
  assert.deepEqual(await texts(ana.page, ".mine"), ["four"]);
  await say(ana.page, "five");
  await heard(bo.page, "five");
  assert.deepEqual((await bo.page.evaluate(() => window.counts)).filter((count) => count !== "2"), [], "nobody seemed to leave");
});

test("after a restart of a server that forgets, the page comes back by itself", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  await say(ana.page, "before");
  await heard(bo.page, "before");

  assert.equal(await server.stop(), 0);
  await chip(ana.page, /^Reconnecting/);
  await say(ana.page, "meanwhile");
  await reads(ana.page, ".pending", /meanwhile/);
  await server.start();

  await connected(ana.page);
  await connected(bo.page);
  await heard(bo.page, "meanwhile");
  await heard(ana.page, "meanwhile");
  await say(bo.page, "after");
  await heard(ana.page, "after");
  for (const { page } of [ana, bo]) {
    assert.deepEqual(await texts(page), ["before", "meanwhile", "after"]);
    await reads(page, ".gap", /Some messages are missing here/);
  }
  await here(ana.page, "Ana", "Bo");
});

test("a page that lost the network gets what it missed, once and in order", async () => {
  const network = new Network();
  await network.listen(server.port);
  try {
    const ana = await visit("Ana");
    const bo = await visit("Bo", { port: network.port });
    await say(ana.page, "before");
    await heard(bo.page, "before");

    network.cut();
    await chip(bo.page, /^Reconnecting/);
    await bo.context.setOffline(true);
    await chip(bo.page, /^Offline$/);
    await say(bo.page, "written offline");
    await say(ana.page, "missed 1");
    await say(ana.page, "missed 2");
    await heard(ana.page, "missed 2");
    network.mend();
    await bo.context.setOffline(false);

    await connected(bo.page);
    await heard(bo.page, "written offline");
    await heard(ana.page, "written offline");
    const all = ["before", "missed 1", "missed 2", "written offline"];
    assert.deepEqual(await texts(bo.page), all);
    assert.deepEqual(await texts(ana.page), all);
    await reads(bo.page, ".note", /^While you were away$/);
    assert.equal(await gaps(bo.page), 0);
  } finally {
    network.close();
  }
});

test("a line can be cut and mended, and what comes late is marked", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo");
  await say(bo.page, "before");
  await heard(ana.page, "before");

  await ana.page.click("#cut");
  await chip(ana.page, /^Line cut/);
  await say(ana.page, "from the tunnel");
  await say(bo.page, "missed 1");
  await say(bo.page, "missed 2");
  await heard(bo.page, "missed 2");
  assert.deepEqual(await texts(ana.page), ["before", "from the tunnel"]);
  await ana.page.click("#mend");

  await connected(ana.page);
  await heard(ana.page, "from the tunnel");
  await say(bo.page, "after");
  await heard(ana.page, "after");
  assert.deepEqual(await texts(ana.page), ["before", "missed 1", "missed 2", "from the tunnel", "after"]);
  assert.deepEqual(await texts(ana.page, ".message:has(.late)"), ["missed 1", "missed 2"]);
  assert.deepEqual(await notes(ana.page), ["While you were away"]);
  assert.equal(await countOf(bo.page, ".late"), 0);
  await here(ana.page, "Ana", "Bo");
});

test("where messages are missing it says so, and goes on with those that are left", async () => {
  const ana = await visit("Ana");
  await say(ana.page, "before");
  await heard(ana.page, "before");
  await ana.page.click("#cut");
  await chip(ana.page, /^Line cut/);
  for (let n = 1; n <= 102; n++) await post("general", "curl", `line ${n}`);
  await ana.page.click("#cut");

  await heard(ana.page, "line 102");
  const left = Array.from({ length: 100 }, (_, n) => `line ${n + 3}`);
  assert.deepEqual(await texts(ana.page), ["before", ...left]);
  assert.deepEqual(await notes(ana.page), ["Some messages are missing here"]);
  assert.deepEqual(await texts(ana.page, ".gap + .message"), ["line 3"]);
  await post("general", "curl", "after");
  await heard(ana.page, "after");
  assert.equal(await countOf(ana.page, ".message:last-child .late"), 0);
});

chromiumTest("nobody has to wait for the next attempt", async () => {
  const network = new Network();
  await network.listen(server.port);
  try {
    const ana = await visit("Ana", { port: network.port, clock: true });
    network.cut();
    await chip(ana.page, /^Reconnecting in/);
    await ana.page.clock.pauseAt(await ana.page.evaluate(() => Date.now() + 60_000));
    await chip(ana.page, /^Reconnecting in/);
    network.mend();
    await ana.page.getByRole("button", { name: "Try now" }).click();
    await connected(ana.page);
    assert.equal(await ana.page.evaluate(() => document.activeElement.id), "text");
  } finally {
    network.close();
  }
});

chromiumTest("rooms are apart, and any name makes one", async () => {
  const ana = await visit("Ana");
  const bo = await visit("Bo", { room: "#team-7" });
  assert.equal(await bo.page.getByRole("heading", { level: 1 }).textContent(), "# team-7");
  await say(bo.page, "only here");
  await heard(bo.page, "only here");
  await here(ana.page, "Ana");
  assert.deepEqual(await texts(ana.page), []);

  await ana.page.getByLabel("Another room").fill("Team 7");
  await ana.page.getByRole("button", { name: "Enter" }).click();
  await heard(ana.page, "only here");
  await here(ana.page, "Ana", "Bo");
  await ana.page.getByRole("link", { name: "general" }).click();
  await here(ana.page, "Ana");
  assert.deepEqual(await texts(ana.page), []);
  await ana.page.goBack();
  await heard(ana.page, "only here");
  assert.deepEqual(await texts(ana.page), ["only here"]);

  await ana.page.evaluate(() => (location.hash = "not a room"));
  await ana.page.getByRole("alert").filter({ hasText: "cannot be a room" }).waitFor();
  assert.equal(new URL(ana.page.url()).hash, "#team-7");
});

chromiumTest("what people write is text, never HTML", async () => {
  const ana = await visit("<b>Ana</b>");
  const bo = await visit("Bo");
  const nasty = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`;
  await say(ana.page, nasty);
  await heard(bo.page, nasty);
  assert.deepEqual(await texts(bo.page), [nasty]);
  assert.equal(await bo.page.locator("#messages img, #messages script, #people b").count(), 0);
});

chromiumTest("the log stays where it is read, and says that there is more", async () => {
  const ana = await visit("Ana");
  for (let n = 1; n <= 40; n++) await post("general", "curl", `line ${n}`);
  await heard(ana.page, "line 40");
  const log = ana.page.getByRole("log");
  const toEnd = () => log.evaluate((item) => item.scrollHeight - item.scrollTop - item.clientHeight);
  assert.ok((await toEnd()) <= 1, "it follows at its end");

  await log.evaluate((item) => (item.scrollTop = 100));
  await ana.page.waitForFunction(() => document.getElementById("log").scrollTop === 100);
  await ana.page.evaluate(() => new Promise(requestAnimationFrame)); // the scroll event has been heard
  await post("general", "curl", "one more");
  const cue = ana.page.getByRole("button", { name: "1 new message" });
  await cue.waitFor();
  assert.equal(await log.evaluate((item) => item.scrollTop), 100);
  await cue.click();
  await cue.waitFor({ state: "hidden" });
  assert.ok((await toEnd()) <= 1);
  await post("general", "curl", "and one");
  await heard(ana.page, "and one");
  assert.ok((await toEnd()) <= 1, "it follows again");
});

chromiumTest("a message keeps its place and size when it is confirmed", async () => {
  const network = new Network();
  await network.listen(server.port);
  try {
    const ana = await visit("Ana", { port: network.port });
    network.cut();
    await chip(ana.page, /^Reconnecting/);
    await say(ana.page, "A message that waits for the network to come back.");
    const item = ana.page.locator(".message");
    const waiting = await item.locator(".bubble").boundingBox();
    assert.match(await item.getAttribute("class"), /pending/);
    network.mend();
    await heard(ana.page, "A message that waits for the network to come back.");
    assert.deepEqual(await item.locator(".bubble").boundingBox(), waiting);
  } finally {
    network.close();
  }
});

chromiumTest("the job in the background shows how far it is", async () => {
  const ana = await visit("Ana", { room: "#builds" });
  const bar = ana.page.getByRole("progressbar", { name: /Build #1/ });
  const first = Number(await bar.getAttribute("value").then(() => bar.evaluate((item) => item.value)));
  await ana.page.waitForFunction((value) => document.getElementById("build").value > value, first);
  await ana.page.locator(".message").filter({ hasText: "Build #1 passed" }).waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [PHONE, { width: 1280, height: 720 }]) {
    chromiumTest(`it fits ${viewport.width}px, ${colorScheme}`, async () => {
      const ana = await visit("Ana", { viewport, colorScheme });
      await post("general", "x".repeat(40), "y".repeat(400));
      await say(ana.page, "z".repeat(400));
      await heard(ana.page, "z".repeat(400));
      assert.equal(await overflow(ana.page), false);
      const [r, g, b] = await ana.page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      assert.equal((r + g + b) / 3 > 128, colorScheme === "light");
      const send = await ana.page.getByRole("button", { name: "Send" }).boundingBox();
      assert.ok(send.x + send.width <= viewport.width && send.y + send.height <= viewport.height, "the button is in view");
    });
  }
}

chromiumTest("the keyboard is enough", async () => {
  const ana = await visit("Ana");
  const { keyboard } = ana.page;
  const focused = () => ana.page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());
  await ana.page.reload();
  await connected(ana.page);

  assert.equal(await focused(), "text");
  await keyboard.type("first line");
  await keyboard.press("Shift+Enter");
  await keyboard.type("second line");
  await keyboard.press("Enter");
  await heard(ana.page, "first line\nsecond line");

  await keyboard.press("Tab");
  assert.equal(await focused(), "Send");
  for (const expected of ["text", "log", "Save", "name"]) {
    await keyboard.press("Shift+Tab");
    assert.equal(await focused(), expected);
  }
  await keyboard.press("Control+A");
  await keyboard.type("Anna");
  await keyboard.press("Enter");
  await here(ana.page, "Anna");
  assert.equal(await focused(), "text");

  for (const expected of ["log", "Save", "name", "cut", "Enter", "other", "builds", "random"]) {
    await keyboard.press("Shift+Tab");
    assert.equal(await focused(), expected);
  }
  const ring = await ana.page.evaluate(() => getComputedStyle(document.activeElement).outlineWidth);
  assert.ok(parseFloat(ring) >= 2, "the focus can be seen");
  await keyboard.press("Enter");
  await ana.page.locator("h1").filter({ hasText: "# random" }).waitFor();
  assert.equal(await ana.page.getByRole("link", { name: "random" }).getAttribute("aria-current"), "page");
});

chromiumTest("on a phone the side opens and closes", async () => {
  const ana = await visit("Ana", { viewport: PHONE });
  const menu = ana.page.getByRole("button", { name: "Rooms and people" });
  const link = ana.page.getByRole("link", { name: "random" });
  assert.equal(await link.isVisible(), false);
  await menu.focus();
  await ana.page.keyboard.press("Enter");
  await link.waitFor();
  assert.equal(await menu.getAttribute("aria-expanded"), "true");
  await ana.page.keyboard.press("Escape");
  await link.waitFor({ state: "hidden" });
  assert.equal(await ana.page.evaluate(() => document.activeElement.id), "menu");
  await menu.click();
  await link.click();
  await link.waitFor({ state: "hidden" });
  assert.equal(await ana.page.getByRole("heading", { level: 1 }).textContent(), "# random");
});
