// What breaks clients: servers that die, connections that die silently, pages that sleep. At the end of each test, the page
// has heard every tick once and in order, or a gap event, and the server has one session.
/* global document, heard, history, live, location, PageTransitionEvent, reportError, states, window */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest, inFirefox, launch, noteErrors, test } from "./browser.mjs";
import { build, Network, Server } from "./servers.mjs";

const PATIENCE = 10_000; // ms for what must happen
const PING = 300; // ms, the server's interval
const SLACK = 10_000; // ms that a ping may be late, as docs/protocol.md says
const CHECK = 5_000; // ms between two checks of its connection by live.js

let program, browser, server, network, contexts, faults;

before(async () => {
  program = build("testserver");
  // Without this switch, which Playwright sets, pages that are left may be kept as they are.
  browser = await launch({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });
});

after(async () => {
  await browser?.close();
  program?.remove();
});

beforeEach(async () => {
  contexts = [];
  faults = [];
  server = new Server(program.binary, "-ping", `${PING}ms`);
  await server.start();
  network = new Network();
  await network.listen(server.port);
});

afterEach(async () => {
  for (const context of contexts) await context.close();
  network.close();
  server.thaw();
  await server.kill();
  assert.deepEqual(faults, [], "no page has failed, or had two sockets");
});

/** A browser of one person. */
async function person() {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  await context.addInitScript(() => {
    const sockets = [];
    window.WebSocket = class extends WebSocket {
      constructor(...where) {
        super(...where);
        sockets.push(this);
        if (sockets.filter(({ readyState }) => readyState <= WebSocket.OPEN).length > 1) reportError(new Error("two sockets at once"));
      }

      send(frame) {
        if (frame === '{"op":"ping"}') window.probes = (window.probes ?? 0) + 1;
        super.send(frame);
      }
    };
  });
  contexts.push(context);
  return context;
}

/** Opens the page under an id. With a clock the page's time can be moved. */
async function open(id, { context, clock = false, token = false, path = "/" } = {}) {
  const page = await (context ?? (await person())).newPage();
  noteErrors(page, faults);
  if (clock) await page.clock.install();
  await page.goto(`http://127.0.0.1:${network.port}${path}?page=${id}${token ? "&token" : ""}`);
  await connected(page);
  return page;
}

const connected = (page) => page.waitForFunction(() => window.live?.state === "open");
const disconnected = (page) => page.waitForFunction(() => live.state !== "open");
const stateOf = (page) => page.evaluate(() => live.state);

/** Stops the time of a page that waits to dial, so that no timer can bring it back. */
async function stopTimers(page) {
  await page.clock.pauseAt(await page.evaluate(() => Date.now() + 60_000));
  await page.waitForFunction(() => live.state === "waiting");
}

/** Publishes the next n ticks, and returns the last. */
const tick = async (n = 1) => (await server.call("POST", `/ticks?n=${n}`)).last;

/** Waits until a page has heard a tick, and checks that it heard all the others. */
async function heardAll(page, last, first = 1) {
  await page.waitForFunction((wanted) => heard.includes(wanted), last);
  assert.deepEqual(await page.evaluate(() => heard), Array.from({ length: last - first + 1 }, (_, n) => first + n));
}

/** Waits until the server has these numbers of open sessions, by page. */
async function sessions(wanted) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const { pages } = await server.call("GET", "/stats");
    const got = Object.fromEntries(Object.keys(wanted).map((id) => [id, pages[id]?.open ?? 0]));
    try {
      assert.deepEqual(got, wanted);
      return pages;
    } catch (err) {
      if (Date.now() > deadline) throw err;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Sets what the page is told of its visibility. */
const setVisibility = (page, visibility) =>
  page.evaluate((state) => {
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
    Object.defineProperty(document, "hidden", { configurable: true, get: () => state === "hidden" });
    document.dispatchEvent(new Event("visibilitychange"));
  }, visibility);

test("a server that was killed is found again when it is back", async () => {
  const page = await open("a");
  await tick(3);
  await heardAll(page, 3);

  await page.evaluate(() => {
    const gone = new Promise((resolve) => live.on("close", resolve));
    window.asked = gone.then(() => live.request("echo", "kept until it is back"));
  });
  await server.kill();
  await disconnected(page);
  await server.start();

  await connected(page);
  assert.equal(await page.evaluate(() => window.asked), "kept until it is back");
  await sessions({ a: 1 });
  await tick(2); // 1 and 2: this server counts anew
  await page.waitForFunction(() => heard.length === 6);
  assert.deepEqual(await page.evaluate(() => heard), [1, 2, 3, "gap", 1, 2]);
});

test("what is asked of a server that is killed is answered with an error", async () => {
  const page = await open("a");
  await server.freeze();
  const answer = page.evaluate(() => live.request("echo", 1).then(() => "answered", (err) => err.code));
  await page.evaluate(() => 0); // it has been sent
  await server.kill();
  assert.equal(await answer, "disconnected");
});

test("what was published when the connection broke before the answer is there once, and its place is told", async () => {
  const page = await open("a");
  network.mute();
  const places = page.evaluate(() => Promise.all([live.publish("ticks", 1), live.publish("ticks", 2)]));
  const other = await open("b");
  await heardAll(other, 2); // the server has both
  assert.deepEqual(await page.evaluate(() => heard), []);
  network.drop();

  const told = await places;
  const kept = await page.evaluate(() => live.history("ticks"));
  assert.deepEqual(kept, told.map((at, n) => ({ data: n + 1, at })));
  const last = await page.evaluate(() => live.publish("ticks", 3).then(() => 3));
  await heardAll(page, last);
  await heardAll(other, last);
});

chromiumTest("a server that says nothing any more is left after its ping is overdue", async () => {
  const page = await open("a", { clock: true });
  await tick();
  await heardAll(page, 1);

  await server.freeze();
  await page.clock.fastForward(SLACK - 1000);
  assert.equal(await stateOf(page), "open", "a ping may be late");
  await page.clock.fastForward(1000 + PING + CHECK);
  await disconnected(page);

  server.thaw();
  await connected(page);
  await tick();
  await heardAll(page, 2);
  await sessions({ a: 1 });
});

chromiumTest("after minutes offline a page is back at once, with all that it missed", async () => {
  const page = await open("a", { clock: true });
  await tick(2);
  await heardAll(page, 2);

  network.cut();
  await page.context().setOffline(true);
  await disconnected(page);
  await tick(50);
  for (let minute = 0; minute < 5; minute++) {
    await page.clock.fastForward("01:00");
    await page.waitForFunction(() => live.state === "waiting");
  }
  await tick(50); // a hundred: all that is kept
  await stopTimers(page);
  network.mend();
  await page.context().setOffline(false);

  await connected(page);
  await page.clock.resume();
  await heardAll(page, 102);
  await sessions({ a: 1 });
});

test("who missed more than is kept is told", async () => {
  const page = await open("a");
  await tick(2);
  await heardAll(page, 2);
  network.cut();
  await disconnected(page);
  await tick(101);
  network.mend();
  await connected(page);
  await page.waitForFunction(() => heard.length > 2);
  const last = await tick();
  await page.waitForFunction((wanted) => heard.includes(wanted), last);
  const kept = Array.from({ length: 101 }, (_, i) => 4 + i); // 3 is what was not to be had any more
  assert.deepEqual(await page.evaluate(() => heard), [1, 2, "gap", ...kept]);
});

chromiumTest("a hidden tab hears on, and is back at once when it is seen again", async () => {
  const page = await open("a", { clock: true });
  await setVisibility(page, "hidden");
  await tick();
  await heardAll(page, 1);

  network.cut();
  await disconnected(page);
  await page.clock.fastForward("10:00");
  await tick(5);
  await stopTimers(page); // as a browser may do to a hidden tab
  network.mend();
  await setVisibility(page, "visible");

  await connected(page);
  await page.clock.resume();
  await heardAll(page, 6);
  await sessions({ a: 1 });
});

test("a page that one comes back to goes on, and held no session meanwhile", async () => {
  const page = await open("a");
  await tick(2);
  await heardAll(page, 2);

  await page.goto(`http://127.0.0.1:${network.port}/elsewhere`);
  await sessions({ a: 0 });
  await tick(2);
  await page.evaluate(() => void setTimeout(() => history.back()));

  await connected(page);
  await heardAll(page, 4);
  await tick();
  await heardAll(page, 5);
  await sessions({ a: 1 });
});

test("a page that is thawed out of the browser's cache dials anew", async () => {
  const page = await open("a");
  await tick(2);
  await heardAll(page, 2);

  network.strand(); // the browser has closed the socket, and told nobody
  await sessions({ a: 0 });
  await tick(2);
  await page.evaluate(() => {
    const { now } = Date;
    Date.now = () => now() + 3_600_000; // an hour in the cache
    window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
  });
  await connected(page);
  await heardAll(page, 4);
  await sessions({ a: 1 });
});

chromiumTest("a laptop that has slept notices that its connection is dead", async () => {
  const page = await open("a", { clock: true });
  await tick();
  await heardAll(page, 1);

  network.strand();
  await sessions({ a: 0 });
  await tick(5);
  assert.equal(await stateOf(page), "open", "nothing has told it");
  await page.clock.fastForward("08:00:00");

  await page.waitForFunction(() => states.filter(({ state }) => state === "open").length === 2);
  await heardAll(page, 6);
  await sessions({ a: 1 });
});

test("one whose sign-in has expired fetches one token, and is back within a second", async () => {
  const page = await open("a", { token: true });
  await tick();
  await heardAll(page, 1);

  network.end(4200, "sign-in expired");
  await page.waitForFunction(() => states.filter(({ state }) => state === "open").length === 2);
  const waits = await page.evaluate(() => states.filter(({ state }) => state === "waiting"));
  assert.deepEqual(waits.map(({ code, retryIn }) => [code, retryIn <= 1000]), [[4200, true]]);
  const { tokens, refused } = await server.call("GET", "/stats");
  const heads = inFirefox ? 1 : 0; // live.js asks there whether a HEAD is answered; that is no handshake
  assert.deepEqual({ tokens, refused }, { tokens: 2, refused: heads });
  await tick();
  await heardAll(page, 2);
  await sessions({ a: 1 });
});

test("one that may not come back stays away", async () => {
  const page = await open("a");
  network.end(4001, "no longer allowed");
  await page.waitForFunction(() => live.state === "closed");
  await page.evaluate(() => {
    for (const name of ["online", "focus", "pageshow"]) window.dispatchEvent(new Event(name));
  });
  const said = await page.evaluate(() => {
    try {
      live.reconnect();
    } catch (err) {
      return err.message;
    }
  });
  assert.match(said, /4001 no longer allowed/);
  assert.equal((await sessions({ a: 0 })).a.total, 1);
});

test("a listener that throws stops nothing", async () => {
  const page = await open("a");
  await page.evaluate(() => {
    const broken = () => {
      throw new Error("a broken listener");
    };
    for (const name of ["state", "open", "close", "message", "gap"]) live.on(name, broken);
    live.subscribe("ticks", broken);
  });
  await tick(2);
  await heardAll(page, 2);
  network.drop();
  await page.waitForFunction(() => states.filter(({ state }) => state === "open").length === 2);
  await tick();
  await heardAll(page, 3);
  await sessions({ a: 1 });
  assert.ok(faults.length >= 3 && faults.every((fault) => fault.endsWith("a broken listener")), "each is reported");
  faults = [];
});

test("two tabs do not disturb each other", async () => {
  const context = await person();
  const one = await open("a", { context });
  const other = await open("b", { context });
  await tick(2);
  await heardAll(one, 2);
  await heardAll(other, 2);
  network.drop();
  for (const page of [one, other]) await page.waitForFunction(() => states.filter(({ state }) => state === "open").length === 2);
  await sessions({ a: 1, b: 1 });
  await one.close();
  await sessions({ a: 0, b: 1 });
  await tick();
  await heardAll(other, 3);
});

test("twenty quick reloads leave one session", async () => {
  const page = await open("a");
  for (let n = 0; n < 20; n++) {
    await page.evaluate(() => {
      window.left = true;
      setTimeout(() => location.reload());
    });
    await page.waitForFunction(() => !window.left);
  }
  await connected(page);
  const { a } = await sessions({ a: 1 });
  const dials = inFirefox ? 2 : 1; // Firefox takes a page's socket some ms before the page goes: it may dial again
  assert.ok(a.total <= 21 * dials, `${a.total} sessions for 21 pages`);
  const last = await tick(2);
  await heardAll(page, last);
});

test("whatever wakes a page, it has one socket", async () => {
  const page = await open("a");
  const wake = () =>
    page.evaluate(() => {
      for (const name of ["online", "focus", "pageshow", "resume"]) window.dispatchEvent(new Event(name));
      document.dispatchEvent(new Event("visibilitychange"));
      live.reconnect();
    });
  const asleep = () =>
    page.evaluate(() => {
      const { now } = Date;
      Date.now = () => now() + 3_600_000; // live.js pings before its next check only if the page may have slept
    });
  for (let n = 0; n < 10; n++) {
    await asleep();
    await wake();
    await page.waitForFunction((probes) => window.probes > probes, n);
  }
  const { a } = await sessions({ a: 1 });
  assert.deepEqual(a, { open: 1, most: 1, total: 1 }, "a live connection is kept");

  for (let n = 0; n < 5; n++) {
    network.cut();
    await disconnected(page);
    for (let m = 0; m < 5; m++) await wake();
    network.mend();
    for (let m = 0; m < 5; m++) await wake();
    await connected(page);
  }
  await tick();
  await heardAll(page, 1);
  await sessions({ a: 1 });
});
