// The example of a list over SQLite: what is written while the server is away is sent later, once.
/* global document */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

let browser, tasks, store;

before(async () => {
  tasks = build("tasks");
  store = mkdtempSync(join(tmpdir(), "livetopic-"));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  tasks?.remove();
  rmSync(store, { recursive: true, force: true });
});

/** Waits until the list has these tasks, and whether they wait. */
const awaitTasks = (page, ...wanted) =>
  page.waitForFunction(
    (list) => JSON.stringify([...document.querySelectorAll("#tasks li")].map((item) => [item.querySelector("span").textContent, item.className])) === list,
    JSON.stringify(wanted),
  );

test("a task that was written without a connection is stored once, and blanks are none", async () => {
  const server = new Server(tasks.binary, "-db", join(store, "tasks.db"));
  const faults = [];
  await server.start();
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    noteErrors(page, faults);
    await page.goto(`http://127.0.0.1:${server.port}/`);
    const add = async (text) => {
      await page.fill("[name=text]", text);
      await page.click("#add button");
    };
    await page.fill("[name=name]", "  ");
    await page.click("button");
    await page.fill("[name=name]", "Ana");
    await page.click("button");
    await add("  ");
    await add("one");
    await awaitTasks(page, ["one", ""]);

    await server.kill();
    await add("two");
    await awaitTasks(page, ["one", ""], ["two", "pending"]);
    await server.start();
    await awaitTasks(page, ["one", ""], ["two", ""]);
    await page.reload();
    await awaitTasks(page, ["one", ""], ["two", ""]);
    assert.deepEqual(faults, []);
  } finally {
    await context.close();
    await server.kill();
  }
});
