// The login of examples/ in a real browser.
/* global document, getComputedStyle, innerWidth */
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest as test, launch, noteFaults } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

const PATIENCE = 15_000; // ms for what must happen

let login, browser, server, folder, people;

const file = (name) => join(folder, name);

before(async () => {
  login = build("login");
  browser = await launch();
  folder = mkdtempSync(join(tmpdir(), "livetopic-"));
  const first = new Server(login.binary, "-db", file("new.db")); // hashes passwords, which takes a while
  await first.start();
  await first.stop();
});

after(async () => {
  await browser?.close();
  login?.remove();
  rmSync(folder, { recursive: true, force: true });
});

let tests = 0;

beforeEach(async () => {
  people = [];
  const db = file(`${++tests}.db`);
  copyFileSync(file("new.db"), db);
  server = new Server(login.binary, "-db", db);
  await server.start();
});

afterEach(async () => {
  for (const { context } of people) await context.close();
  assert.equal(await server.stop(), 0, "the program ends as it should");
  for (const { faults } of people) assert.deepEqual(faults, [], "no page has failed");
});

/** Someone with a browser of their own. Its open makes a tab at a path, of which the sockets are counted. */
async function visit({ clock = false, ...options } = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  if (clock) await context.clock.install();
  const home = `http://127.0.0.1:${server.port}`;
  const faults = [];
  const open = async (path = "/") => {
    const page = await context.newPage();
    page.sockets = [];
    page.on("websocket", (socket) => page.sockets.push(socket));
    noteFaults(page, faults);
    page.on("request", (request) => {
      if (!request.url().startsWith(home + "/")) faults.push("it asked for " + request.url());
    });
    await page.goto(home + path);
    return page;
  };
  const token = async () => (await context.cookies()).find(({ name }) => name === "session")?.value;
  const someone = { context, faults, home, open, token };
  people.push(someone);
  return someone;
}

async function signIn(page, name = "ana", password = "correct horse") {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

const isLive = (page) => page.locator("#line").filter({ hasText: /^Live$/ }).waitFor();

const devices = (page, count) =>
  page.waitForFunction((wanted) => document.querySelectorAll("#devices li").length === wanted, count);

const signedOut = (page) => page.getByRole("alert").filter({ hasText: "You have been signed out" }).waitFor();

test("a wrong password flashes once, and the right one renews the token", async () => {
  const ana = await visit();
  const page = await ana.open("/account");
  await page.getByRole("alert").filter({ hasText: "Please sign in first." }).waitFor();
  await signIn(page, "ana", "wrong");
  await page.getByRole("alert").filter({ hasText: "Wrong name or password." }).waitFor();
  await page.reload();
  assert.equal(await page.getByRole("alert").count(), 0, "it flashes once");
  assert.equal(await page.getByLabel("Name").evaluate((field) => field === document.activeElement), true);

  const stranger = await ana.token();
  await signIn(page);
  await isLive(page);
  const renewed = await ana.token();
  assert.ok(stranger && renewed && stranger !== renewed, "another token");
  const [cookie] = await ana.context.cookies();
  assert.deepEqual([cookie.httpOnly, cookie.sameSite], [true, "Lax"]);
  assert.equal(await page.evaluate(() => document.cookie), "", "no script can read it");
  await page.getByRole("link", { name: "Account" }).click();
  await page.getByRole("heading", { name: "Account" }).waitFor();
});

test("signing out in one tab closes the other's socket at once, and it does not come back", async () => {
  const ana = await visit({ clock: true });
  const first = await ana.open();
  await signIn(first);
  const second = await ana.open();
  await isLive(first);
  await isLive(second);
  await second.getByText("2 open tabs").waitFor();
  const closed = second.sockets[0].waitForEvent("close");

  await first.getByRole("button", { name: "Sign out", exact: true }).click();
  await closed; // the page's clock stands still: it is the server that closes it
  await signedOut(second);
  assert.equal(await second.locator("main").count(), 0, "what was for ana alone is gone");
  await first.getByRole("alert").filter({ hasText: "You are signed out." }).waitFor();

  await second.clock.runFor(120_000);
  assert.equal(second.sockets.length, 1, "it has not dialled again");
  await second.getByRole("link", { name: "Sign in again" }).click();
  await signIn(second);
  await isLive(second);
});

test("devices come and go, and are all signed out by one button", async () => {
  const phone = await visit();
  const laptop = await visit();
  const bo = await visit();
  const [onPhone, onLaptop, bos] = [await phone.open(), await laptop.open(), await bo.open()];
  await signIn(bos, "bo");
  await isLive(bos);
  await signIn(onPhone);
  await isLive(onPhone);
  await devices(onPhone, 1);
  await signIn(onLaptop);
  await devices(onPhone, 2);
  await devices(onLaptop, 2);
  assert.equal(await onPhone.locator(".tag").count(), 1);

  await onPhone.getByRole("button", { name: /^Sign out Chrome/ }).click();
  await signedOut(onLaptop);
  await devices(onPhone, 1);

  await onLaptop.getByRole("link", { name: "Sign in again" }).click();
  await signIn(onLaptop);
  await devices(onPhone, 2);
  await onLaptop.getByRole("button", { name: "Sign out everywhere" }).click();
  await onLaptop.getByRole("alert").filter({ hasText: "signed out on all devices" }).waitFor();
  await signedOut(onPhone);
  await isLive(bos);
  await devices(bos, 1);
});

test("after a restart everyone is still signed in, and live again", async () => {
  const ana = await visit();
  const page = await ana.open();
  await signIn(page);
  await isLive(page);
  const token = await ana.token();
  assert.equal(await server.stop(), 0);
  await page.locator("#line").filter({ hasText: /^Reconnecting/ }).waitFor();
  await server.start();
  await isLive(page);
  assert.equal(await ana.token(), token);
  await page.reload();
  await isLive(page);
  await devices(page, 1);
});

test("it fits a phone and a desktop, light and dark", async () => {
  const ana = await visit();
  const page = await ana.open("/login");
  const fits = async () => {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const width of [320, 1000]) {
        await page.setViewportSize({ width, height: 640 });
        const { wide, ground } = await page.evaluate(() => ({
          wide: document.documentElement.scrollWidth > innerWidth,
          ground: getComputedStyle(document.body).backgroundColor,
        }));
        assert.equal(wide, false, `it fits ${width}px`);
        const [r, g, b] = ground.match(/\d+/g).map(Number);
        assert.equal((r + g + b) / 3 > 128, colorScheme === "light");
      }
    }
  };
  await fits();
  await signIn(page);
  await isLive(page);
  await fits();
  await page.goto(ana.home + "/account");
  await fits();
});

test("a token that expires is followed by another", async () => {
  const program = build("token");
  const tokens = new Server(program.binary, "-life", "1s");
  try {
    await tokens.start();
    const context = await browser.newContext();
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    await page.goto(`http://127.0.0.1:${tokens.port}`);
    await page.locator("#count").filter({ hasText: /^[2-9]$/ }).waitFor();
    await isLive(page);
    assert.equal(await page.locator("#user").textContent(), "page");
    await context.close();
  } finally {
    await tokens.stop();
    program.remove();
  }
});
