// <live-topic> in a real browser: what it shows, what it never runs, and when it lets go.
/* global addEventListener, document, LiveTopic, MouseEvent, told, window */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, beforeEach } from "node:test";
import { chromiumTest as test, launch, noteErrors } from "./browser.mjs";
import { build, Network, Server } from "./servers.mjs";

const PATIENCE = 15_000; // ms for what must happen
const HTMX = readFileSync(new URL("../../node_modules/htmx.org/dist/htmx.min.js", import.meta.url), "utf8");

let program, notes, browser, server, network, contexts, faults;

before(async () => {
  program = build("testserver");
  notes = build("html");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  program?.remove();
  notes?.remove();
});

beforeEach(async () => {
  contexts = [];
  faults = [];
  server = new Server(program.binary);
  await server.start();
  network = new Network();
  await network.listen(server.port);
});

afterEach(async () => {
  for (const context of contexts) await context.close();
  network.close();
  await server.kill();
  assert.deepEqual(faults, [], "no page has failed");
});

async function newPage() {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  contexts.push(context);
  const page = await context.newPage();
  noteErrors(page, faults);
  return page;
}

/** A page with this body, in which the element is defined. Its script publishes by `say`, and notes events in `told`. */
async function open(body) {
  const page = await newPage();
  await page.goto(`http://127.0.0.1:${network.port}/elsewhere?page=ann`);
  await page.evaluate(async (html) => {
    const { connect } = await import("/live.js");
    window.told = [];
    window.subscriptions = 0;
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) {
      if (text.includes('"subscribe"')) window.subscriptions++;
      send.call(this, text);
    };
    for (const name of ["live-message", "live-swap", "live-gap", "live-error"]) {
      addEventListener(name, ({ detail }) => told.push([name, detail.reason ?? detail.code ?? detail.data]));
    }
    window.other = connect("/live?page=bo");
    document.body.innerHTML = html;
    Object.assign(window, await import("/element.js"));
  }, body.replace(/<live-topic /g, '<live-topic src="/live?page=ann" '));
  await page.waitForFunction(() => [...document.querySelectorAll("live-topic[topic]")].every((item) => item.matches("[state=open], [state=failed]")));
  await page.waitForFunction(() => !document.querySelector("[aria-busy]"));
  return page;
}

/** Publishes, in order, and returns the positions. */
const say = (page, topic, ...messages) =>
  page.evaluate(async ([to, all]) => {
    const places = [];
    for (const data of all) places.push(await window.other.publish(to, data));
    return places;
  }, [topic, messages]);

/** Waits until an element has this content. */
const has = (page, selector, html) =>
  page.waitForFunction(([wanted, content]) => document.querySelector(wanted).innerHTML === content, [selector, html]);

/** Waits until an element has what there was before. */
const begun = (page, selector) =>
  page.waitForFunction((wanted) => document.querySelector(wanted).matches("[state=open]:not([aria-busy])"), selector);

const toldOf = (page, name) => page.evaluate((wanted) => told.filter(([event]) => event === wanted).map(([, detail]) => detail), name);

test("messages are text unless the page asks for HTML", async () => {
  const page = await open(`
    <live-topic id="plain" topic="t"></live-topic>
    <ul id="list"></ul><live-topic topic="t" target="#list"></live-topic>
    <live-topic id="newest" topic="t" swap="replace"></live-topic>
    <live-topic id="rendered" topic="t" html></live-topic>`);
  await say(page, "t", "<b>1</b>", { html: "<i>2</i>" });
  await has(page, "#plain", "<div>&lt;b&gt;1&lt;/b&gt;</div><div>{\"html\":\"&lt;i&gt;2&lt;/i&gt;\"}</div>");
  await has(page, "#list", "<li>&lt;b&gt;1&lt;/b&gt;</li><li>{\"html\":\"&lt;i&gt;2&lt;/i&gt;\"}</li>");
  await has(page, "#newest", "{\"html\":\"&lt;i&gt;2&lt;/i&gt;\"}");
  await has(page, "#rendered", "<b>1</b><i>2</i>");
});

test("scripts in HTML never run", async () => {
  const page = await open('<div id="place"></div><live-topic topic="t" html target="#place"></live-topic>');
  const evil = "window.ran = (window.ran ?? 0) + 1";
  await say(
    page,
    "t",
    `<script>${evil}</script><p>after</p>`,
    `<svg><script>${evil}</script><g onload="${evil}"></g></svg>`,
    `<img src="data:," onerror="${evil}"><img src=x ONERROR="${evil}">`,
    `<details open ontoggle="${evil}"></details><input autofocus onfocus="${evil}">`,
    `<iframe srcdoc="<script>parent.ran=1</script>"></iframe><iframe src="javascript:parent.ran=1"></iframe>`,
    `<object data="javascript:parent.ran=1"></object><embed src="javascript:parent.ran=1">`,
    `<form onclick="${evil}"><input name="attributes"><input name="attributes"><input name="getAttributeNames"><input name="removeAttribute"><a class="click">x</a></form>`,
    `<a class="click" href=" java\nscript:window.ran=1">x</a><a class="click" href="&#1;JavaScript:window.ran=1">x</a>`,
    `<form action="javascript:window.ran=1"><button formaction="javascript:window.ran=1">x</button></form>`,
    `<svg width=9 height=9><a class="click" xlink:href="javascript:window.ran=1"><rect width=9 height=9 /></a></svg>`,
    `<svg width=9 height=9><a class="click"><set attributeName="href" to="javascript:window.ran=1" /><rect width=9 height=9 /></a></svg>`,
    `<svg><a><animate attributeName="xlink:href" values="#;javascript:window.ran=1" /></a></svg>`,
    `<svg><use href="data:image/svg+xml,<svg id='x' xmlns='http://www.w3.org/2000/svg'/>#x" /><use href="#icon" /></svg>`,
    `<template><img src=x onerror="${evil}"></template>`,
    `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=${evil}&gt;">`,
    `<p id="end"></p>`,
  );
  await page.waitForFunction(() => document.querySelector("#end"));
  const left = await page.evaluate(async () => {
    for (const item of document.querySelectorAll(".click")) item.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    document.body.append(document.querySelector("template").content.cloneNode(true));
    await new Promise((resolve) => setTimeout(resolve, 100)); // time for what must not happen
    return {
      ran: window.ran,
      clickable: document.querySelectorAll(".click").length,
      barred: document.querySelectorAll("#place :is(script, iframe, object, embed, [onerror], [onclick], [onload], [action], [formaction], [attributeName])").length,
      uses: [...document.querySelectorAll("use")].map((use) => use.getAttribute("href")),
      place: document.querySelector("#place p").textContent,
    };
  });
  assert.deepEqual(left, { ran: undefined, clickable: 5, barred: 0, uses: [null, "#icon"], place: "after" });
});

test("the attributes say where messages go, and how many stay", async () => {
  const page = await open(`
    <live-topic id="append" topic="t" limit="2" html><p>old</p></live-topic>
    <live-topic id="prepend" topic="t" swap="prepend" limit="2" html><p>old</p></live-topic>
    <table><tbody id="rows"></tbody></table><live-topic topic="rows" html target="#rows"></live-topic>
    <live-topic id="said" topic="t" html aria-live="off"></live-topic><div id="log" role="log"></div><live-topic topic="t" target="#log"></live-topic>`);
  await page.evaluate(() => document.querySelector("#said").addEventListener("live-message", (event) => event.detail.data.includes("2") && event.preventDefault()));
  await say(page, "t", "<p id=a>1</p>\n", "<p>2</p>", "<p id=a>3</p>", "<p>4</p>");
  await has(page, "#append", "<p>2</p><p>4</p>");
  await has(page, "#prepend", "<p>4</p><p>2</p>");
  await has(page, "#said", '<p id="a">3</p><p>4</p>');
  await say(page, "rows", "<tr><td>1</td></tr>");
  await has(page, "#rows", "<tr><td>1</td></tr>");
  const live = await page.evaluate(() => ["#append", "#rows", "#said", "#log"].map((id) => document.querySelector(id).getAttribute("aria-live")));
  assert.deepEqual(live, ["polite", "polite", "off", null]);
});

test("a wrong value of an attribute is told once, and the default counts", async () => {
  const page = await open(`
    <live-topic id="limit" topic="t" limit="-1"></live-topic>
    <live-topic id="none" topic="t" limit="" last="" swap="" target=""></live-topic>
    <live-topic id="zero" topic="t" limit="0" last="0"></live-topic>
    <live-topic id="huge" topic="t" limit="99999999999999999999" last="99999999999999999999"></live-topic>
    <live-topic id="last" topic="t" last="NaN"></live-topic>
    <live-topic id="swap" topic="t" swap="prepand"></live-topic>
    <live-topic id="target" topic="t" target="#"></live-topic>`);
  await say(page, "t", 1, 2);
  const all = "<div>1</div><div>2</div>";
  for (const id of ["limit", "none", "zero", "huge", "last", "swap", "target"]) await has(page, `#${id}`, all);
  const wrong = (attribute, wanted) => `live: <live-topic ${attribute}>: the value is not ${wanted}`;
  assert.deepEqual(faults.splice(0).sort(), [
    wrong('last="NaN"', "a whole number"),
    wrong('limit="-1"', "a whole number"),
    wrong('swap="prepand"', "append, prepend, replace"),
    wrong('target="#"', "a CSS selector"),
  ]);

  await page.evaluate(() => document.querySelector("#limit").setAttribute("limit", "1.5"));
  await say(page, "t", 3);
  await has(page, "#limit", `${all}<div>3</div>`);
  assert.deepEqual(faults.splice(0), [wrong('limit="1.5"', "a whole number")]);
  await page.evaluate(() => document.querySelector("#limit").setAttribute("limit", "2"));
  await say(page, "t", 4);
  await has(page, "#limit", "<div>3</div><div>4</div>");
});

test("a target that is not there is told once, until it is there", async () => {
  const page = await open('<live-topic topic="t" target="#place"></live-topic>');
  const place = (html) => page.evaluate((text) => {
    document.querySelector("#place")?.remove();
    document.body.insertAdjacentHTML("beforeend", text);
  }, html);
  await page.evaluate(() => document.body.insertAdjacentHTML("beforeend", '<live-topic src="/live?page=ann" id="other" topic="t"></live-topic>'));
  await begun(page, "#other");
  const lost = 'live: <live-topic target="#place">: the value is not an element of the page';
  await say(page, "t", 1, 2);
  await has(page, "#other", "<div>1</div><div>2</div>");
  assert.deepEqual(faults.splice(0), [lost]);
  assert.deepEqual(await toldOf(page, "live-swap"), [1, 2], "only the other element has shown them");
  await place('<div id="place"></div>');
  await say(page, "t", 3);
  await has(page, "#place", "<div>3</div>");
  await place("");
  await say(page, "t", 4, 5);
  await has(page, "#other", "<div>1</div><div>2</div><div>3</div><div>4</div><div>5</div>");
  assert.deepEqual(faults.splice(0), [lost]);
});

test("a position or an address that is none is told, and the element goes on as far as it can", async () => {
  const page = await open("<i></i>");
  await page.evaluate(() => {
    document.body.innerHTML = `
      <live-topic src="/live?page=ann" id="since" topic="t" since="&lt;no value>"></live-topic>
      <live-topic id="src" topic="t" src="http://["></live-topic>
      <live-topic id="empty" topic="" src=""></live-topic>`;
  });
  await page.waitForFunction(() => told.some(([name]) => name === "live-gap"));
  await begun(page, "#since");
  await say(page, "t", 1);
  await has(page, "#since", "<div>1</div>");
  assert.deepEqual(await toldOf(page, "live-gap"), ["not_recovered"]);
  assert.equal(await page.getAttribute("#src", "state"), "failed");
  assert.equal(await page.getAttribute("#empty", "state"), null);
  assert.deepEqual(faults.splice(0).map((text) => text.replace(/: Failed.*/, "")).sort(), [
    'live: <live-topic since="<no value>">: the value is not a position',
    'live: <live-topic src="http://[">',
    "live: a member is missing or of the wrong kind",
  ]);
});

test("an element tells that the server refuses its topic after a reconnect", async () => {
  const page = await open('<live-topic id="it" topic="t"></live-topic>');
  await page.evaluate(() => {
    const { send } = WebSocket.prototype;
    WebSocket.prototype.send = function (text) {
      send.call(this, text.replace('"topic":"t"', `"topic":"${"t".repeat(300)}"`));
    };
  });
  network.cut();
  network.mend();
  await page.waitForFunction(() => document.querySelector("#it").matches("[state=failed]"));
  assert.deepEqual(await toldOf(page, "live-error"), ["invalid_topic"]);
  assert.match(faults.splice(0).join(), /topic/);
});

test("a page that loads the module twice has one element", async () => {
  const page = await open('<live-topic id="it" topic="t"></live-topic>');
  await page.evaluate(async () => {
    const other = await import("/element.js?again");
    if (other.LiveTopic !== LiveTopic) throw new Error("there are two classes");
    other.LiveTopic.client = window.other;
  });
  await begun(page, "#it");
  await say(page, "t", 1);
  await has(page, "#it", "<div>1</div>");
});

test("an element begins with the last messages, or after the position of what the server has rendered", async () => {
  const page = await open('<live-topic topic="t"></live-topic>');
  const [, second] = await say(page, "t", 1, 2, 3);
  await page.evaluate((since) => {
    document.body.innerHTML = `
      <live-topic id="since" topic="t" src="/live?page=ann" since="${since}" html></live-topic>
      <live-topic id="last" topic="t" src="/live?page=ann" last="2"></live-topic>
      <live-topic id="both" topic="t" src="/live?page=ann" since="${since}" last="2"></live-topic>
      <live-topic id="lost" topic="t" src="/live?page=ann" since="x.1" last="1"></live-topic>`;
  }, second);
  await has(page, "#last", "<div>2</div><div>3</div>");
  await has(page, "#both", "<div>3</div>");
  await has(page, "#lost", "<div>3</div>");
  await say(page, "t", 4);
  await has(page, "#last", "<div>2</div><div>3</div><div>4</div>");
  assert.deepEqual(await toldOf(page, "live-gap"), ["not_recovered"]);
  assert.equal((await server.call("GET", "/stats?topic=t")).subscribers, 1);
  assert.equal(faults.splice(0).length, 2, "3 and 4 are no HTML");
});

test("nothing is missing or there twice after a cut, a move and a server that forgets", async () => {
  const page = await open('<live-topic id="it" topic="ticks" last="5"></live-topic><main></main>');
  const tick = () => server.call("POST", "/ticks?n=1"); // 1, 2, …
  const state = (wanted) => page.waitForFunction((name) => document.querySelector("#it").getAttribute("state") === name, wanted);
  const online = () => page.evaluate(() => window.dispatchEvent(new Event("online")));
  await tick();
  await has(page, "#it", "<div>1</div>");
  network.cut();
  await state("waiting");
  await tick();
  network.mend();
  await online();
  await has(page, "#it", "<div>1</div><div>2</div>");
  const { accepted } = await server.call("GET", "/stats");

  const asked = await page.evaluate(() => window.subscriptions);
  await page.evaluate(() => document.querySelector("main").append(document.querySelector("#it")));
  assert.equal(await page.evaluate(() => window.subscriptions), asked, "a move is no new subscription");
  await tick();
  await has(page, "#it", "<div>1</div><div>2</div><div>3</div>");
  await page.evaluate(async () => {
    const it = document.querySelector("#it");
    it.remove();
    await fetch("/ticks?n=1", { method: "POST" });
    document.body.append(it);
  });
  await has(page, "#it", "<div>1</div><div>2</div><div>3</div><div>4</div>");
  assert.equal((await server.call("GET", "/stats")).accepted, accepted, "it kept its connection");

  await server.kill();
  await state("waiting");
  await server.start();
  await online();
  await state("open");
  await page.waitForFunction(() => told.some(([name]) => name === "live-gap"));
  await tick(); // 1: this server counts anew
  await has(page, "#it", "<div>1</div><div>2</div><div>3</div><div>4</div><div>1</div>");
});

test("an element that is removed lets go, another topic empties it, and a refusal is told", async () => {
  const page = await open('<live-topic id="it" topic="t"></live-topic>');
  await say(page, "t", 1);
  await has(page, "#it", "<div>1</div>");
  await say(page, "u", 2);
  await page.evaluate(() => {
    document.querySelector("#it").setAttribute("last", 1);
    document.querySelector("#it").setAttribute("topic", "u");
  });
  await has(page, "#it", "<div>2</div>");
  assert.equal((await server.call("GET", "/stats?topic=t")).subscribers, 0);

  await page.evaluate(() => document.querySelector("#it").setAttribute("topic", "t".repeat(300)));
  await page.waitForFunction(() => document.querySelector("#it").getAttribute("state") === "failed");
  assert.deepEqual(await toldOf(page, "live-error"), ["invalid_topic"]);
  assert.equal(await page.evaluate(() => document.querySelector("#it").innerHTML), "");
  assert.match(faults.splice(0).join(), /topic/);

  await page.evaluate(() => document.querySelector("#it").remove());
  for (const deadline = Date.now() + PATIENCE; (await server.call("GET", "/stats")).pages.ann.open; ) {
    assert.ok(Date.now() < deadline, "the connection is still open");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await page.evaluate(() => {
    LiveTopic.client = window.other;
    document.body.innerHTML = '<live-topic id="it" topic="t" last="1"></live-topic>';
  });
  await has(page, "#it", "<div>1</div>");
  assert.equal((await server.call("GET", "/stats")).sessions, 1, "it uses the page's client");
});

test("a keyed topic is a table, and keys that the server does not have any more go", async () => {
  const row = (key, text) => `<p data-key="${key}">${text}</p>`;
  const page = await open("<i></i>");
  await say(page, "votes", "<p>yes</p>");
  await page.evaluate((html) => {
    const element = (id) => `<live-topic src="/live?page=ann" id="${id}" topic="votes" keyed html>${html}</live-topic>`;
    document.body.innerHTML = element("first") + element("second");
  }, row("gone", "old") + row("bo", "old"));
  for (const id of ["#first", "#second"]) await has(page, id, row("bo", "yes"));
  await say(page, "votes", "<p>no</p>");
  for (const id of ["#first", "#second"]) await has(page, id, row("bo", "no"));
  await page.evaluate(() => {
    document.body.insertAdjacentHTML("beforeend", '<live-topic src="/live?page=ann" id="third" topic="votes" keyed html></live-topic>');
  });
  await has(page, "#third", row("bo", "no"));
  await server.kill();
  await server.start();
  await page.evaluate(() => window.dispatchEvent(new Event("online")));
  for (const id of ["#first", "#second", "#third"]) await has(page, id, "");
});

test("htmx knows what is swapped in, and can fetch the content anew after a gap", async () => {
  const page = await open('<live-topic id="it" topic="t" html></live-topic><output></output><main></main>');
  await page.addScriptTag({ content: HTMX });
  await say(page, "t", '<button hx-get="/stats" hx-target="output">How many?</button>');
  await page.click("#it button");
  await page.waitForFunction(() => /"sessions":2/.test(document.querySelector("output").textContent));

  await page.route("**/log", (route) => route.fulfill({ contentType: "text/html", body: "<p>all lines</p>" }));
  await page.evaluate(() => {
    document.querySelector("main").innerHTML = `
      <live-topic topic="log" html hx-get="/log" hx-trigger="live-gap"></live-topic>`;
    document.querySelector("main live-topic").setAttribute("src", "/live?page=ann");
    document.querySelector("main live-topic").setAttribute("since", "x.1");
    window.htmx.process(document.querySelector("main"));
  });
  await has(page, "main live-topic", "<p>all lines</p>");
});

for (const htmx of [true, false]) {
  test(`the notes of examples/html, ${htmx ? "with" : "without"} htmx`, async () => {
    const board = new Server(notes.binary, "-htmx", htmx ? "/htmx.js" : "");
    await board.start();
    try {
      const pages = [await newPage(), await newPage()];
      for (const page of pages) {
        await page.route("**/htmx.js", (route) => route.fulfill({ contentType: "text/javascript", body: HTMX }));
        await page.goto(`http://127.0.0.1:${board.port}/`);
        await page.waitForFunction(() => document.querySelector("live-topic[state=open]") && !document.querySelector("[aria-busy]"));
        await page.evaluate(() => (window.stays = true));
      }
      const [ana, bo] = pages;
      const add = async (page, text) => {
        await page.fill("[name=text]", text);
        await page.click("h1 + form button");
      };
      const shows = async (...texts) => {
        for (const page of pages) {
          await page.waitForFunction((wanted) => JSON.stringify([...document.querySelectorAll("li")].map((li) => li.firstChild.data.trim())) === wanted, JSON.stringify(texts));
        }
      };
      await add(ana, "milk");
      await shows("milk");
      await add(bo, "<script>alert(1)</script>");
      await shows("milk", "<script>alert(1)</script>");
      await bo.click("li button");
      await shows("<script>alert(1)</script>");
      assert.equal(await ana.evaluate(() => window.stays ?? false), htmx, "with htmx the page is not loaded again");
      await bo.reload();
      await shows("<script>alert(1)</script>");
    } finally {
      for (const context of contexts.splice(0)) await context.close();
      await board.kill();
    }
  });
}
