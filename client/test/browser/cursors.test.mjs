// The example of a keyed topic: everybody's cursor, and no other.
/* global document */
import assert from "node:assert/strict";
import { after, before } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

let browser, cursors;

before(async () => {
  cursors = build("cursors");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  cursors?.remove();
});

/** The names that a page shows, sorted. */
const names = (page) => page.evaluate(() => [...document.querySelectorAll(".cursor b")].map((b) => b.textContent).sort());

const awaitCursors = (page, count) => page.waitForFunction((n) => document.querySelectorAll(".cursor").length === n, count);

test("each page shows the cursors of the others, through a restart, and until they leave", async () => {
  const server = new Server(cursors.binary);
  const faults = [];
  const contexts = [];
  await server.start();
  const open = async () => {
    const context = await browser.newContext();
    contexts.push(context);
    const page = await context.newPage();
    noteErrors(page, faults);
    await page.goto(`http://127.0.0.1:${server.port}/`);
    await page.waitForFunction(() => document.querySelector("#state").textContent.includes("here"));
    return page;
  };
  try {
    const pages = [await open(), await open(), await open()];
    const own = await Promise.all(pages.map((page) => page.textContent("#me")));
    const move = async () => {
      for (const page of pages) for (let i = 1; i <= 20; i++) await page.mouse.move(10 * i, 20 * i);
    };
    const agree = async () => {
      for (const [i, page] of pages.entries()) {
        await awaitCursors(page, pages.length - 1);
        assert.deepEqual(await names(page), own.filter((_, j) => j !== i).sort());
      }
    };
    await move();
    await agree();
    await pages[0].waitForFunction(() => [...document.querySelectorAll(".cursor")].every((c) => c.style.transform === "translate(200px, 400px)"));
    await server.kill();
    await server.start();
    for (const page of pages) await awaitCursors(page, 0);
    for (const page of pages) await page.waitForFunction(() => document.querySelector("#state").textContent === "0 others here");
    await move();
    await agree();
    await contexts[2].close();
    pages.pop();
    own.pop();
    await agree();
    assert.deepEqual(faults, [], "no page has failed");
  } finally {
    for (const context of contexts) await context.close();
    await server.stop();
  }
});
