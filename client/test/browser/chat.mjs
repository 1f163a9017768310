// The chat's page, as a test has it open.
/* global document, location */
import { noteFaults } from "./browser.mjs";

const PATIENCE = 15_000; // ms for what must happen

/** Someone with a browser of their own, and the chat open in it; added to people. */
export async function visit(browser, people, name, { port, room = "", clock = false, ...options }) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 640 }, ...options });
  context.setDefaultTimeout(PATIENCE);
  if (clock) await context.clock.install();
  await context.addInitScript((first) => {
    if (location.protocol === "http:") localStorage["chat.name"] ??= first;
  }, name);
  const faults = [];
  const home = `http://127.0.0.1:${port}`;
  const someone = { name, context, faults, home };
  people.push(someone);
  someone.open = async () => {
    const page = await context.newPage();
    noteFaults(page, faults);
    page.on("request", (request) => {
      if (!request.url().startsWith(home + "/")) faults.push("it asked for " + request.url());
    });
    await page.goto(`${home}/${room}`);
    await connected(page);
    await reads(page, "#people .tag", /you/);
    return page;
  };
  const page = await someone.open();
  return { ...someone, page };
}

/** Waits until an element that a selector finds has a text like this one. */
export const reads = (page, selector, text) =>
  page.waitForFunction(
    ([wanted, source]) => [...document.querySelectorAll(wanted)].some((item) => new RegExp(source).test(item.textContent)),
    [selector, text.source],
  );

/** The number of elements that a selector finds. */
export const countOf = (page, selector) => page.evaluate((wanted) => document.querySelectorAll(wanted).length, selector);

export const connected = (page) => chip(page, /^Connected$/);

export const chip = (page, text) => reads(page, "#chip-text", text);

/** Waits until these people, and no others, are in the list. */
export const here = (page, ...names) =>
  page.waitForFunction(
    (wanted) => {
      const found = [...document.querySelectorAll("#people .name")].map((item) => item.textContent);
      return JSON.stringify(found.sort()) === wanted && document.getElementById("count").textContent === String(found.length);
    },
    JSON.stringify([...names].sort()),
  );

export async function rename(page, name) {
  await page.fill("#name", name);
  await page.click("#me button");
}

export async function say(page, text) {
  await page.fill("#text", text);
  await page.click("#composer button");
}

/** Waits until a text is in the log as the server sent it. */
export const heard = (page, text) =>
  page.waitForFunction(
    (wanted) => [...document.querySelectorAll(".message:not(.pending) .text")].some((item) => item.textContent === wanted),
    text,
  );

/** The texts of the messages, as they are shown. */
export const texts = (page, messages = ".message") =>
  page.evaluate((wanted) => [...document.querySelectorAll(`${wanted} .text`)].map((item) => item.textContent), messages);

/** What the log says of missing messages. */
export const gaps = (page) => countOf(page, ".gap");
