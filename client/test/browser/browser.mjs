// The browser of the tests: Chromium, or Firefox where $BROWSER is "firefox". Of Firefox's pages a test may use what
// firefox.mjs gives them, and what Playwright and Puppeteer call by one name.
import { test as unbounded } from "node:test";
import { chromium } from "playwright-core";
import { launchFirefox } from "./firefox.mjs";

const BOUND = 90_000; // ms for a test
export const inFirefox = process.env.BROWSER === "firefox";

/** A test of every browser. */
export const test = (name, run) => unbounded(name, { timeout: BOUND }, run);

/** A test that needs what Chromium's driver alone can do: move the clock, find by role, pretend to be a phone. */
export const chromiumTest = inFirefox ? () => {} : test;

/** Starts the browser. The options are Playwright's. */
export const launch = (options) => (inFirefox ? launchFirefox() : launchChromium(options));

function launchChromium(options) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    ...options,
  });
}

/** Notes the errors of a page's scripts. */
export function noteErrors(page, faults) {
  page.on("pageerror", (error) => note(error.message, faults));
}

/** Notes what a page's console shows as an error, too. */
export function noteFaults(page, faults) {
  noteErrors(page, faults);
  page.on("console", (message) => message.type() === "error" && note(message.text(), faults));
}

/** Each browser has its own message for a lost WebSocket. These messages are not errors of the page. */
function note(text, faults) {
  if (!/\bws:\/\//.test(text)) faults.push(text);
}
