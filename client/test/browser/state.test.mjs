// The examples of topics with a state: what pages show is what the server has, whatever happens to either.
/* global document, dispatchEvent, DOMParser, location */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { build, Server } from "./servers.mjs";

let browser, tasks, stream;

before(async () => {
  tasks = build("tasks");
  stream = build("stream");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  tasks?.remove();
  stream?.remove();
});

/** Runs a test with a program that keeps its file in a folder of its own. */
async function withServer(program, flag, run) {
  const folder = mkdtempSync(join(tmpdir(), "livetopic-state-"));
  const file = join(folder, "file");
  const server = new Server(program.binary, flag, file);
  const faults = [];
  const contexts = [];
  await server.start();
  const open = async () => {
    const context = await browser.newContext();
    contexts.push(context);
    const page = await context.newPage();
    noteErrors(page, faults);
    await page.goto(`http://127.0.0.1:${server.port}/`);
    return page;
  };
  try {
    await run({ server, file, open });
    assert.deepEqual(faults, [], "no page has failed");
  } finally {
    for (const context of contexts) await context.close();
    await server.stop();
    rmSync(folder, { recursive: true });
  }
}

const signIn = async (page, name) => {
  await page.fill("input[name=name]", name);
  await page.click("button");
  await page.getByText("Connected", { exact: true }).waitFor();
};

/** What a page shows: each task with its mark. */
const shown = (page) =>
  page.evaluate(() => [...document.querySelectorAll("#tasks li")].map((li) => `${li.classList.contains("done") ? "x" : "-"} ${li.querySelector("span").textContent}`).sort());

/** What the server has, as a page that is loaded now gets it. */
const stored = (page) =>
  page.evaluate(async () => {
    const text = await (await fetch(location.href)).text();
    const state = JSON.parse(new DOMParser().parseFromString(text, "text/html").querySelector("#tasks").dataset.state);
    return state.tasks.map((task) => `${task.done ? "x" : "-"} ${task.text}`).sort();
  });

/** Waits until pages show what the server has, and nothing is under way. */
async function agree(...pages) {
  for (const deadline = Date.now() + 30_000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    try {
      const want = await stored(pages[0]);
      for (const page of pages) {
        assert.deepEqual(await shown(page), want);
        assert.equal(await page.evaluate(() => document.querySelectorAll(".pending").length), 0);
      }
      return want;
    } catch (err) {
      if (Date.now() > deadline) throw err;
    }
  }
}

const add = async (page, text) => {
  await page.fill("input[name=text]", text);
  await page.press("input[name=text]", "Enter");
};

const line = (page, text) => page.locator("#tasks li", { hasText: text });

test("tabs show the list, whoever changes it, and after kill -9", () =>
  withServer(tasks, "-db", async ({ server, open }) => {
    const ana = await open();
    await signIn(ana, "ana");
    await add(ana, "milk");
    await add(ana, "bread");
    const bo = await open();
    await signIn(bo, "bo");
    assert.deepEqual(await agree(ana, bo), ["- bread", "- milk"]);
    await line(bo, "milk").locator("input").check();
    await line(ana, "bread").locator("button").click();
    await add(bo, "tea");
    assert.deepEqual(await agree(ana, bo), ["- tea", "x milk"]);
    await bo.reload();
    assert.deepEqual(await agree(ana, bo), ["- tea", "x milk"]);

    await server.kill();
    await server.start();
    await line(bo, "tea").locator("input").check();
    assert.deepEqual(await agree(ana, bo), ["x milk", "x tea"]);

    const late = await open();
    await signIn(late, "cy");
    await add(late, "sugar");
    assert.deepEqual(await agree(ana, bo, late), ["- sugar", "x milk", "x tea"]);
  }));

test("a tab that was away for more changes than the history has shows the list", () =>
  withServer(tasks, "-db", async ({ open }) => {
    const ana = await open();
    await signIn(ana, "ana");
    const bo = await open();
    await signIn(bo, "bo");
    await bo.context().setOffline(true);
    await bo.evaluate(() => dispatchEvent(new Event("offline")));
    await ana.evaluate(async () => {
      for (let i = 0; i < 150; i++) {
        await fetch("/tasks", { method: "POST", body: JSON.stringify({ id: `task${i % 40}`, text: `number ${i}`, done: i % 3 === 0 }) });
      }
    });
    await bo.context().setOffline(false);
    assert.equal((await agree(ana, bo)).length, 40);
  }));

test("two that write at the same time, and a server that is killed meanwhile", () =>
  withServer(tasks, "-db", async ({ server, open }) => {
    const pages = [];
    for (const name of ["ana", "bo"]) {
      const page = await open();
      await signIn(page, name);
      pages.push(page);
    }
    const write = (page, step) =>
      page.evaluate(async (seed) => {
        for (let i = 0; i < 120; i++) {
          const task = { id: `t${(i * seed) % 7}`, text: `${seed} wrote ${i}`, done: i % 2 === 0, deleted: i % 5 === 0 };
          await fetch("/tasks", { method: "POST", body: JSON.stringify(task) }).catch(() => {});
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }, step);
    const writing = [write(pages[0], 3), write(pages[1], 5)];
    await new Promise((resolve) => setTimeout(resolve, 300));
    await server.kill();
    await server.start();
    await Promise.all(writing);
    await agree(...pages);
  }));

test("an answer grows in every tab, through reloads and kill -9", () =>
  withServer(stream, "-file", async ({ server, file, open }) => {
    const pages = [await open(), await open()];
    const text = (page) => page.evaluate(() => document.querySelector("#answer").textContent);
    /** What a page shows is how the answer begins, and it grows. */
    const grows = async (page) => {
      const shorter = await text(page);
      await page.waitForFunction((length) => document.querySelector("#answer").textContent.length > length + 20, shorter.length);
      const now = await text(page);
      assert.ok(now.startsWith(shorter), `${shorter} … ${now}`);
      assert.ok(readFileSync(file, "utf8").startsWith(now), "the page shows what the file has");
    };
    for (const page of pages) await grows(page);
    await pages[0].reload();
    for (const page of pages) await grows(page);
    await server.kill();
    await server.start();
    for (const page of pages) await grows(page);
    pages.push(await open());
    for (const page of pages) await grows(page);
  }));
