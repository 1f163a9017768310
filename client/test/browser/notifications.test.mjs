// The example of publishing over HTTP: what a terminal publishes, and jobs that outlive the server.
/* global document, requestAnimationFrame */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

let browser, notifications, store;

before(async () => {
  notifications = build("notifications");
  store = mkdtempSync(join(tmpdir(), "livetopic-"));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  notifications?.remove();
  rmSync(store, { recursive: true, force: true });
});

/** Waits until a page shows a text in its list. */
const awaitText = (page, text) =>
  page.waitForFunction((wanted) => [...document.querySelectorAll("#list span")].some((span) => span.textContent === wanted), text);

/** Waits until the only job of a page is at a percentage or further on. */
const awaitJob = (page, percent) =>
  page.waitForFunction((least) => {
    const bars = [...document.querySelectorAll("#jobs progress")];
    return bars.length === 1 && bars[0].value * 100 >= least * bars[0].max;
  }, percent);

/** Loads the page, and returns which parts of it moved. */
async function shiftsOf(page, server) {
  await page.addInitScript(() => {
    globalThis.shifts = [];
    const note = (entries) => globalThis.shifts.push(...entries.flatMap(({ sources }) => sources.map(({ node }) => node?.nodeName)));
    const observer = new PerformanceObserver((list) => note(list.getEntries()));
    observer.observe({ type: "layout-shift" });
    globalThis.takeShifts = () => note(observer.takeRecords());
  });
  await page.goto(`http://127.0.0.1:${server.port}/`);
  await awaitJob(page, 100);
  await awaitText(page, "Hello from a terminal");
  return page.evaluate(async () => {
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    globalThis.takeShifts();
    return globalThis.shifts.filter((name) => name !== "P"); // the state has another text
  });
}

test("every tab follows a job through kill -9 and a reload, and gets what a terminal publishes", async () => {
  const server = new Server(notifications.binary, "-store", store, "-step", "40ms");
  const faults = [];
  await server.start();
  const context = await browser.newContext();
  try {
    const pages = [await context.newPage(), await context.newPage()];
    for (const page of pages) {
      noteErrors(page, faults);
      await page.goto(`http://127.0.0.1:${server.port}/`);
      await page.waitForFunction(() => document.querySelector("#state").textContent === "Connected");
    }
    await pages[0].click("#start");
    for (const page of pages) await awaitJob(page, 10);
    await server.kill();
    await server.start();
    for (const page of pages) await awaitJob(page, 50);
    await pages[1].reload();
    for (const page of pages) await awaitJob(page, 100);
    const done = (await pages[0].textContent("#jobs span")) + " is done";
    for (const page of pages) await awaitText(page, done);

    const line = await pages[0].textContent("#curl");
    const { status, stderr } = spawnSync("sh", ["-c", line + " --fail --silent --show-error"], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    for (const page of pages) await awaitText(page, "Hello from a terminal");
    for (const page of pages) assert.equal(await page.locator("#list li").count(), 2, "each notification is there once");

    assert.deepEqual(await shiftsOf(await context.newPage(), server), [], "nothing moves while a page is loaded");

    await pages[0].click("#clear");
    for (const page of pages) await page.waitForFunction(() => document.querySelectorAll("#jobs li").length === 0);
    assert.deepEqual(faults, [], "no page has failed");
  } finally {
    await context.close();
    await server.kill();
  }
});
