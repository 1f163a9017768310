// Firefox, which is found in $FIREFOX or at /usr/bin/firefox-esr, driven over WebDriver BiDi. Its pages have those of
// Playwright's methods that the tests of every browser use.
import puppeteer from "puppeteer-core";

const POLL = 20; // ms between two looks at a page

/** Starts it with a profile folder of its own, which its close removes. */
export async function launchFirefox() {
  const executablePath = process.env.FIREFOX || "/usr/bin/firefox-esr";
  const firefox = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
  return {
    newContext: async ({ viewport = null } = {}) => new Context(await firefox.createBrowserContext(), viewport),
    close: () => firefox.close(),
  };
}

/** A browser of one person: no other context has its cookies and its storage. */
class Context {
  #context;
  #viewport;
  #scripts = [];
  #patience = 30_000;

  constructor(context, viewport) {
    this.#context = context;
    this.#viewport = viewport;
  }

  setDefaultTimeout(ms) {
    this.#patience = ms;
  }

  /** Has every page run a function before its own scripts. */
  async addInitScript(...script) {
    this.#scripts.push(script);
  }

  /** Opens a page in a window of its own: a tab behind another is hidden, and its timers come late. */
  async newPage() {
    const page = await this.#context.newPage({ type: "window" });
    page.setDefaultTimeout(this.#patience);
    if (this.#viewport) await page.setViewport(this.#viewport);
    for (const script of this.#scripts) await page.evaluateOnNewDocument(...script);
    page.fill = (selector, text) => page.locator(selector).fill(text);
    page.waitForFunction = (fn, arg) => untilTrue(page, fn, arg, this.#patience);
    return page;
  }

  /** Takes the network from its pages, or gives it back. */
  async setOffline(offline) {
    for (const page of await this.#context.pages()) await page.setOfflineMode(offline);
  }

  close() {
    return this.#context.close();
  }
}

/** Asks a page until it answers with something true. It has no answer while it is left for another, or loads. */
async function untilTrue(page, fn, arg, patience) {
  const deadline = Date.now() + patience;
  let why = "it answered with nothing true";
  while (Date.now() < deadline) {
    try {
      if (await page.evaluate(fn, arg)) return;
    } catch (err) {
      why = err.message;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
  throw new Error(`${page.url()} was asked for ${patience} ms in vain, ${why}: ${fn}`);
}
