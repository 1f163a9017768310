// The inspector in Chromium: a person finds out what is wrong, and what it shows fits and can be used by keyboard.
/* global document, getComputedStyle, innerWidth */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach } from "node:test";
import { WebSocket } from "ws";
import { chromiumTest, launch, noteFaults } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

const PATIENCE = 20_000; // ms for what must happen
const PHONE = { width: 375, height: 700 };
const DESK = { width: 1280, height: 860 };

let program, browser, server, contexts, clients, faults;

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
  clients = [];
  faults = [];
  server = new Server(program.binary);
  await server.start();
});

afterEach(async () => {
  for (const context of contexts) await context.close();
  for (const client of clients) client.terminate();
  await server.kill();
  assert.deepEqual(faults, [], "no page has failed");
});

/** A client of a user that subscribes to topics. */
async function connect(user, ...topics) {
  const client = new WebSocket(`ws://127.0.0.1:${server.port}/live?page=${user}`, "live.v1");
  clients.push(client);
  client.on("error", () => {});
  const said = new Set();
  client.on("message", (data) => {
    const frame = JSON.parse(data);
    if (frame.op === "ping") client.send('{"op":"pong"}');
    if (frame.op === "reply") said.add(frame.id);
  });
  await new Promise((resolve) => client.once("open", resolve));
  topics.forEach((topic, i) => client.send(JSON.stringify({ op: "subscribe", id: i + 1, topic })));
  while (said.size < topics.length) await new Promise((resolve) => setTimeout(resolve, 5));
  return client;
}

const call = (path, parameters) => server.call("POST", `${path}?${new URLSearchParams(parameters)}`);
const publish = (topic, n, size = 10) => call("/publish", { topic, n, size });

/** Opens the inspector. */
async function look({ clock = false, impatient = false, ...options } = {}) {
  const context = await browser.newContext({ viewport: DESK, ...options });
  context.setDefaultTimeout(PATIENCE);
  contexts.push(context);
  if (clock) await context.clock.install();
  if (impatient) await context.addInitScript(haveShortTimeouts);
  const page = await context.newPage();
  noteFaults(page, faults);
  const home = `http://127.0.0.1:${server.port}/inspect/`;
  page.on("request", (request) => {
    if (!request.url().startsWith(home)) faults.push("it asked for " + request.url());
  });
  await page.goto(home);
  await page.getByRole("status").filter({ hasText: "Ready" }).waitFor();
  return page;
}

/** Makes the time that the page gives the server a tenth. */
function haveShortTimeouts() {
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (ms) => timeout(ms / 10);
}

/** The first row of the table that is shown. */
const firstRow = (page) => page.locator("[role=tabpanel]:not([hidden]) tbody tr").first();

chromiumTest("a person finds the slowest client", async () => {
  await connect("ann", "news");
  await connect("bob", "news");
  const slow = await connect("slow", "news");
  slow.pause();
  await publish("news", 400, 50_000); // more than the kernel takes for it
  const page = await look();
  const row = firstRow(page).filter({ hasText: "slow" });
  await row.waitFor();
  await row.getByText("catching up in 1 topic").waitFor();
  await page.getByRole("button", { name: /^slow/ }).click();
  const dialog = page.getByRole("dialog", { name: "slow" });
  await dialog.getByText(/behind by \d+/).waitFor();
  assert.match(await dialog.innerText(), /Waits for the client\s+\S+ (KB|MB) in \d+ messages/);
  assert.match(await page.locator('[data-figure="behind"] .value').innerText(), /^1$/);
});

chromiumTest("a person finds the busiest topic, and sees what is published there", async () => {
  await connect("ann", "busy", "quiet", "silent");
  let more = true;
  const publishing = (async () => {
    while (more) {
      await publish("busy", 20);
      await publish("quiet", 1);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  })();
  try {
    const page = await look();
    await page.getByRole("tab", { name: "Topics" }).click();
    await firstRow(page).filter({ hasText: /busy[^]*\d\/s/ }).waitFor();
    await page.getByRole("button", { name: /^busy/ }).click();
    await page.getByRole("dialog", { name: "busy" }).getByRole("button", { name: "Follow it" }).click();
    await page.getByText(/Following busy: .* so far, [\d.]+\/s/).waitFor();
    await firstRow(page).filter({ hasText: "hidden" }).waitFor();
    assert.equal(await page.getByText("xxxxxxxxxx").count(), 0, "no payload is shown until somebody asks");
    await page.getByLabel("Show payloads").check();
    await firstRow(page).filter({ hasText: '"xxxxxxxxxx"' }).waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Stopped.").waitFor();
  } finally {
    more = false;
    await publishing;
  }
});

chromiumTest("a person finds out why a user was thrown out", async () => {
  for (const user of ["ann", "bob", "cid"]) await connect(user, "news");
  const page = await look();
  await call("/disconnect", { user: "bob", reason: "the account is locked" });
  clients[2].close(1000);
  await page.getByRole("tab", { name: "Why closed" }).click();
  await page.getByRole("button", { name: "Client left 1" }).waitFor();
  await page.getByLabel("User, ID, code or reason").fill("BOB");
  const row = firstRow(page).filter({ hasText: "Thrown out or signed out" });
  await row.waitFor();
  await page.getByText("1 of 2 ends").waitFor();
  assert.match(await row.innerText(), /code 4001, the account is locked/);
  await row.getByRole("button", { name: /^bob/ }).click();
  const dialog = page.getByRole("dialog", { name: "bob" });
  await dialog.getByText("DisconnectUser was called").waitFor();
  assert.match(await dialog.innerText(), /Was subscribed to\s+1 topic/);
});

chromiumTest("a person closes a session, and publishes", async () => {
  const ann = await connect("ann", "news");
  const closed = new Promise((resolve) => ann.once("close", (code, reason) => resolve([code, String(reason)])));
  const heard = new Promise((resolve) => ann.on("message", (data) => JSON.parse(data).topic === "news" && resolve(JSON.parse(data).data)));
  const page = await look();
  await page.getByRole("tab", { name: "Try" }).click();
  const form = page.locator("#publish");
  await form.getByRole("textbox", { name: "Topic", exact: true }).fill("news");
  await form.getByLabel("Data, as JSON").fill('{"text":"<b>hello</b>"}');
  await form.getByLabel(/^ID/).fill("once");
  const answers = [];
  for (let i = 0; i < 2; i++) {
    await form.getByRole("button", { name: "Publish" }).click();
    await form.getByText(/^Published at /).waitFor();
    answers.push(await form.getByRole("status").innerText());
  }
  assert.equal(answers[1], answers[0], "the ID is published once");
  assert.deepEqual(await heard, { text: "<b>hello</b>" });
  await form.getByLabel("Data, as JSON").fill("no JSON");
  await form.getByRole("button", { name: "Publish" }).click();
  await form.getByText(/not valid JSON/).waitFor();
  faults.splice(0); // Chromium notes the answer 400

  await page.getByRole("tab", { name: "Sessions" }).click();
  await page.getByRole("button", { name: /^Close the session of ann/ }).click();
  const dialog = page.getByRole("dialog", { name: "ann" });
  await dialog.getByLabel("The client should").selectOption({ label: "Stay away: the client does not come back (1000)" });
  await dialog.getByLabel("Reason").fill("go home");
  await dialog.getByRole("button", { name: "Close this session" }).click();
  assert.deepEqual(await closed, [1000, "go home"]);
  await dialog.getByText("The session is closed.").waitFor();
  await page.keyboard.press("Escape");
  await page.getByText("Nobody is connected to this server.").waitFor();
});

chromiumTest("it asks only while it can be seen, and not while it pauses", async () => {
  const page = await look({ clock: true });
  let asked = 0;
  page.on("request", () => asked++);
  const hide = (hidden) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  const settle = () => page.waitForLoadState("networkidle");
  const goesOn = async () => {
    const from = asked;
    while (asked < from + 4) await page.clock.runFor(500); // two looks
  };
  await goesOn();
  await hide(true);
  await settle();
  asked = 0;
  await page.clock.runFor(60_000);
  assert.equal(asked, 0, "hidden");
  await hide(false);
  await goesOn();
  await page.getByRole("button", { name: "Pause" }).click();
  await settle();
  asked = 0;
  await page.clock.runFor(60_000);
  assert.equal(asked, 0, "paused");
  await page.getByRole("button", { name: "Go on" }).click();
  await goesOn();
});

chromiumTest("it says when the server does not answer, and comes back", async () => {
  const page = await look();
  await server.kill();
  await page.getByRole("alert").filter({ hasText: "does not answer" }).waitFor();
  await server.start();
  await page.getByRole("status").filter({ hasText: "Ready" }).waitFor();
  await page.getByRole("alert").waitFor({ state: "hidden" });
  faults.splice(0); // Chromium notes each request that has failed
});

chromiumTest("it says when the server is stuck, and comes back", async () => {
  const page = await look({ impatient: true });
  await server.freeze();
  await page.getByRole("alert").filter({ hasText: "does not answer" }).waitFor();
  server.thaw();
  await page.getByRole("status").filter({ hasText: "Ready" }).waitFor();
  faults.splice(0); // Chromium may note the requests that were given up
});

chromiumTest("a followed topic shows each publication once, however long answers take", async () => {
  const page = await look();
  await fetch(`http://127.0.0.1:${server.port}/inspect/tail?topic=news`); // somebody else follows it already
  await publish("news", 3);
  const held = [];
  let release;
  const released = new Promise((resolve) => (release = resolve));
  await page.route("**/tail?*", async (route) => {
    const response = await route.fetch();
    held.push(route);
    if (held.length === 2) release();
    await released;
    await route.fulfill({ response });
  });
  await page.getByRole("tab", { name: "Follow" }).click();
  await page.locator("#tail-topic").fill("news");
  await page.getByRole("button", { name: "Follow", exact: true }).click();
  await released;
  await page.getByText(/Following news: 3 so far/).waitFor();
  await page.waitForResponse(/tail/); // of a later look
  assert.equal(await page.locator("#tail-rows tbody tr").count(), 3);
});

chromiumTest("a name is a text, whatever it looks like", async () => {
  const evil = "<img src=x onerror=alert(1)>";
  await connect(encodeURIComponent(evil), evil);
  const page = await look();
  await page.locator(".open").filter({ hasText: evil }).click();
  await page.getByRole("dialog", { name: evil }).getByRole("cell", { name: evil }).waitFor();
  assert.equal(await page.locator("img[src=x]").count(), 0);
});

// What people have as names, and how they are shown. A row has the first three lines of a name.
const names = [
  ["\u202elive", "⟨U+202E⟩live"],
  ["\u200b", "⟨U+200B⟩"],
  ["ann\u200d", "ann⟨U+200D⟩"],
  [" bob ", "␣bob␣"],
  ["a\nb", "a⟨U+000A⟩b"],
  ["👩‍👧 می‌خواهم", "👩‍👧 می‌خواهم"],
];

chromiumTest("a name that nobody sees, or that looks like another, can be told", async () => {
  for (const [name] of names) await connect(encodeURIComponent(name), "news");
  await connect("W".repeat(200) + "end", "news");
  await connect("tall" + "\u0300".repeat(60), "news");
  const page = await look();
  await page.locator(".open").nth(names.length + 1).waitFor();
  const shown = await page.locator(".open .name").allTextContents();
  for (const [name, expected] of names) assert.ok(shown.includes(expected), `${JSON.stringify(name)} is shown as ${expected}: ${JSON.stringify(shown)}`);
  const tallest = await page.locator(".open .name").evaluateAll((all) => Math.max(...all.map((name) => name.scrollHeight && name.clientHeight / parseFloat(getComputedStyle(name).lineHeight))));
  assert.ok(tallest < 3.2, `a name takes ${tallest} lines`);
  await call("/disconnect", { user: "ann\u200d", reason: "out\u202e" });
  await page.getByRole("tab", { name: "Why closed" }).click();
  await page.getByRole("button", { name: /^ann⟨U\+200D⟩/ }).click();
  await page.getByRole("dialog", { name: "ann⟨U+200D⟩" }).getByText("out⟨U+202E⟩", { exact: true }).waitFor();
});

chromiumTest("a name that is written from right to left leaves the sentence around it in order", async () => {
  const topic = "חדר";
  await connect("ann", topic);
  const page = await look();
  await page.getByRole("tab", { name: "Follow" }).click();
  await page.locator("#tail-topic").fill(topic);
  await page.getByRole("button", { name: "Follow", exact: true }).click();
  await page.getByText(/^Following חדר: 0 so far/).waitFor();
  const places = await page.locator("#tail-note").evaluate((note) => {
    const place = (node, at) => {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      return range.getBoundingClientRect().left;
    };
    const [, name, rest] = note.childNodes;
    return [place(name.firstChild, 0), place(rest, 0), place(rest, rest.textContent.indexOf("0"))];
  });
  assert.deepEqual(places, places.toSorted((a, b) => a - b), "the name, the colon, the number");
});

chromiumTest("behind a load balancer it says that servers answer in turn", async () => {
  const page = await look();
  let looks = 0;
  await page.route("**/figures", async (route) => {
    const answer = await (await route.fetch()).json();
    const one = { ...answer.nodes[0], id: "1", name: "web-1" };
    const two = { ...answer.nodes[0], id: "2", name: "web-2" };
    const self = looks++ % 2 ? two : one;
    for (const node of [one, two]) node.self = node === self;
    answer.ticks += self === two ? 1e9 : 0; // its clock began at another time
    await route.fulfill({ json: { ...answer, nodes: [one, two] } });
  });
  await page.getByText(/answer this page in turn, such as web-1 and web-2/).waitFor();
  await publish("news", 1000);
  const published = page.locator('[data-figure="published"]');
  await published.filter({ hasText: /most [1-9]/ }).waitFor();
  const most = Number((await published.locator(".caption").innerText()).replace(/\D/g, ""));
  assert.ok(most <= 2000, `two servers have each made a thousand publications in two seconds, and the figure says ${most} a second`);
});

chromiumTest("a server that was killed makes no deliveries while it is still in the list", async () => {
  const page = await look();
  let beats = 0;
  let killed = false;
  await page.route("**/figures", async (route) => {
    const answer = await (await route.fetch()).json();
    if (!killed) beats++;
    const other = { ...answer.nodes[0], id: "2", name: "web-2", self: false, silentFor: killed ? 7000 : 0 };
    other.stats = { ...other.stats, Delivered: 1e6 * beats };
    await route.fulfill({ json: { ...answer, nodes: [answer.nodes[0], other] } });
  });
  const row = page.locator("#nodes tbody tr").filter({ hasText: "web-2" });
  await row.filter({ hasText: /k\/s/ }).waitFor();
  killed = true;
  await row.filter({ hasText: "Heard 7 s ago" }).waitFor();
  assert.match(await row.innerText(), /–\/s/);
  assert.match(await page.locator('[data-figure="delivered"] .value').innerText(), /^0$/, "all servers");
});

chromiumTest("the lines go on when somebody sets the server's clock", async () => {
  const page = await look();
  let looks = 0;
  await page.route("**/figures", async (route) => {
    const answer = await (await route.fetch()).json();
    if (++looks > 1) answer.now -= 3_600_000;
    if (looks > 1) for (const node of answer.nodes) node.since -= 3_600_000;
    await route.fulfill({ json: answer });
  });
  while (looks < 2) await page.waitForResponse(/figures/);
  await publish("news", 1000);
  await page.locator('[data-figure="published"]').filter({ hasText: /most [1-9]/ }).waitFor();
  const last = await page.locator('[data-figure="sessions"] .line').evaluate((line) => line.getAttribute("d").match(/([\d.]+) [\d.]+$/)[1]);
  assert.equal(last, "300.0", "the newest point is at the right end");
});

chromiumTest("the keyboard is enough", async () => {
  await connect("ann", "news");
  const page = await look();
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim());
  await page.getByRole("button", { name: /^ann/ }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the tables");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "pause");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "tab-sessions");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await focused(), "tab-try");
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  assert.equal(await focused(), "tab-topics");
  assert.equal(await page.getByRole("tab", { name: "Topics" }).getAttribute("aria-selected"), "true");
  await page.keyboard.press("ArrowLeft");
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineWidth);
  assert.ok(parseFloat(ring) >= 2, "the focus can be seen");
  await page.keyboard.press("Tab"); // the search
  for (const expected of ["User", "Waiting"]) {
    await page.keyboard.press("Tab");
    assert.equal(await focused(), expected);
  }
  const header = page.getByRole("columnheader", { name: "Waiting" });
  assert.equal(await header.getAttribute("aria-sort"), "descending");
  await page.keyboard.press("Enter");
  assert.equal(await header.getAttribute("aria-sort"), "ascending");
  const row = page.getByRole("button", { name: /^ann/ });
  await row.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: "ann" });
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.match(await focused(), /^ann/, "the focus is where it was");
  await page.waitForResponse(/sessions/); // the row is drawn anew, and keeps the focus
  assert.match(await focused(), /^ann/);
});

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [PHONE, DESK]) {
    chromiumTest(`it fits ${viewport.width}px, ${colorScheme}`, async () => {
      const long = "n".repeat(120);
      await connect(long, "t".repeat(200), "news");
      await connect("bob", "news");
      await call("/disconnect", { user: "bob", reason: "r".repeat(100) });
      const page = await look({ viewport, colorScheme });
      const fits = async (what) => {
        const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(width <= 0, `${what} is ${width}px too wide`);
      };
      for (const tab of ["Sessions", "Topics", "Why closed", "Follow", "Try"]) {
        await page.getByRole("tab", { name: tab }).click();
        if (["Sessions", "Topics", "Why closed"].includes(tab)) await firstRow(page).waitFor();
        await fits(tab);
      }
      await page.getByRole("tab", { name: "Sessions" }).click();
      await page.getByRole("button", { name: long }).first().click();
      await page.getByRole("dialog").waitFor();
      await fits("a session");
      const [r, g, b] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      assert.equal((r + g + b) / 3 > 128, colorScheme === "light");
    });
  }
}
