// The chat's page, as a test has it open.
/* global document, location */

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
    page.on("pageerror", (error) => faults.push(error.message));
    page.on("console", (message) => {
      const lost = message.text().includes("WebSocket connection to");
      if (message.type() === "error" && !lost) faults.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(home + "/")) faults.push("it asked for " + request.url());
    });
    await page.goto(`${home}/${room}`);
    await connected(page);
    await page.locator("#people .tag", { hasText: "you" }).waitFor({ state: "attached" });
    return page;
  };
  const page = await someone.open();
  return { ...someone, page };
}

export const connected = (page) => chip(page, /^Connected$/);

export const chip = (page, text) => page.locator("#chip-text").filter({ hasText: text }).waitFor();

/** Waits until these people, and no others, are in the list. */
export const here = (page, ...names) =>
  page.waitForFunction(
    (wanted) => {
      const shown = [...document.querySelectorAll("#people .name")].map((item) => item.textContent);
      return JSON.stringify(shown.sort()) === wanted && document.getElementById("count").textContent === String(shown.length);
    },
    JSON.stringify([...names].sort()),
  );

export async function say(page, text) {
  await page.getByRole("textbox", { name: "Message" }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** Waits until a text is in the log as the server sent it. */
export const heard = (page, text) =>
  page.locator(".message:not(.pending)").filter({ has: page.getByText(text, { exact: true }) }).first().waitFor();

/** The texts of the messages, as they are shown. */
export const texts = (page) => textsOf(page.locator(".message"));
export const textsOf = (messages) => messages.locator(".text").allTextContents();
