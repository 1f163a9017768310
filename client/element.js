// <live-topic>: puts what is published to a topic into the page. See element.d.ts and docs/html.md.
import { connect } from "./live.js";

/** @import * as api from "./element.d.ts" */

const IDLE = 1_000; // ms that a client stays open without elements: a swap removes elements and puts others in
const MAX_HISTORY = 1_000;
const SWAPS = ["append", "prepend", "replace"];

/** Scripts, and documents that may have scripts. */
const SCRIPTS = "script, iframe, frame, object, embed";

const clients = new Map(); // by address
const elements = new Set(); // that are in a document

let common; // the client of the page, if it has set one

/** Servers that render pages import this module too, and have no elements. */
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});

/** @implements {api.LiveTopic} */
class TopicElement extends Base {
  static observedAttributes = ["topic", "src", "since"];

  #client;
  #at; // the position of the content
  #running; // { topic, src, client, end }
  #due = false;
  #faults = new Map(); // that were reported, by attribute

  static get client() {
    return common ?? null;
  }

  static set client(live) {
    common = live ?? undefined;
    for (const element of elements) element.#later();
  }

  get client() {
    return this.#client ?? null;
  }

  set client(live) {
    this.#client = live ?? undefined;
    this.#later();
  }

  connectedCallback() {
    elements.add(this);
    this.#later();
  }

  disconnectedCallback() {
    elements.delete(this);
    this.#later();
  }

  attributeChangedCallback(name, old, value) {
    if (name === "since") this.#at = value ?? undefined;
    if (name === "topic" && old !== null && old !== value) {
      this.#at = undefined;
      this.#place?.replaceChildren(); // the content is of another topic
    }
    this.#later();
  }

  /** An element that is moved, or whose attributes change together, begins anew once at most. */
  #later() {
    if (!this.#due) queueMicrotask(() => this.#update());
    this.#due = true;
  }

  #update() {
    this.#due = false;
    const topic = this.isConnected && this.getAttribute("topic");
    const src = this.getAttribute("src") || "/live";
    const client = this.#client ?? common;
    const now = this.#running;
    if (topic ? now?.topic === topic && now.src === src && now.client === client : !now) return;
    now?.end.abort();
    this.#running = undefined;
    if (topic) this.#start(topic, src, client);
    else this.removeAttribute("state");
  }

  #start(topic, src, client) {
    const end = new AbortController();
    const { signal } = end;
    const running = (this.#running = { topic, src, client, end });
    try {
      const live = client ?? borrow(src, signal);
      const show = () => this.setAttribute("state", live.state);
      const off = live.on("state", show);
      signal.addEventListener("abort", off);
      show();
      this.#follow(live, running);
    } catch (err) {
      this.#fail(err, running);
    }
  }

  #follow(live, running) {
    const { topic } = running;
    const { signal } = running.end;
    const place = this.#place;
    if (!place?.hasAttribute("role") && !place?.hasAttribute("aria-live")) place?.setAttribute("aria-live", "polite");
    place?.setAttribute("aria-busy", "true"); // what was there before is not read out
    const keyed = this.hasAttribute("keyed");
    const begun = () => {
      if (signal.aborted) return;
      for (const row of rowsOf(place)) if (keyed && !live.keys(topic).has(row.dataset.key)) row.remove();
      place?.removeAttribute("aria-busy");
    };
    follow(live, topic, {
      since: keyed ? undefined : this.#at, // all keys come, so that those that are gone are known
      last: Math.min(this.#count("last"), MAX_HISTORY) || undefined,
      signal,
      hear: (message) => this.#hear(message),
      onGap: (gap) => this.#tell("live-gap", gap),
      onEnd: (err) => this.#fail(err, running),
      failed: (err) => this.#tell("live-error", err) && reportError(err),
    }).then(begun, (err) => this.#fail(err, running));
  }

  #hear(message) {
    this.#at = message.at ?? this.#at;
    if (!this.#tell("live-message", message)) return;
    const place = this.#place;
    if (!place) return this.#report("target", "an element of the page");
    if (place !== this) this.#faults.delete("target"); // it is there
    try {
      this.#swap(place, message);
      this.#tell("live-swap", message);
    } catch (err) {
      reportError(err);
    }
  }

  #swap(place, message) {
    const key = this.hasAttribute("keyed") ? message.key : undefined;
    if (message.removed) return key && find(place, key)?.remove();

    const how = this.getAttribute("swap") || "append";
    if (!SWAPS.includes(how)) this.#report("swap", SWAPS.join(", "));
    const content = this.hasAttribute("html") ? parse(message.data) : textOf(message.data, how, place);
    const swapped = /** @type {HTMLElement[]} */ ([...content.children]);
    if (how === "replace") {
      place.replaceChildren(content);
    } else {
      for (const element of swapped) {
        if (key) element.dataset.key = key;
        const name = key || element.id;
        if (name) find(place, name)?.replaceWith(element);
      }
      if (how === "prepend") place.prepend(content);
      else place.append(content);
    }
    const limit = this.#count("limit") || Infinity;
    while (place.childElementCount > limit) place.removeChild(how === "prepend" ? place.lastChild : place.firstChild);
    for (const element of swapped) globalThis.htmx?.process(element);
  }

  get #place() {
    const target = this.getAttribute("target");
    try {
      return target ? this.ownerDocument.querySelector(target) : this;
    } catch {
      this.#report("target", "a CSS selector");
      return this;
    }
  }

  /** The number in an attribute. 0 stands for the default. */
  #count(name) {
    const value = this.getAttribute(name)?.trim() ?? "";
    if (/^\d*$/.test(value)) return Number(value);
    this.#report(name, "a whole number");
    return 0;
  }

  /** Reports a value that an attribute cannot have, once. */
  #report(name, wanted) {
    const fault = `live: <live-topic ${name}="${this.getAttribute(name)}">: the value is not ${wanted}`;
    if (this.#faults.get(name) !== fault) reportError(new TypeError(fault));
    this.#faults.set(name, fault);
  }

  /** The subscription is over. It begins anew with another topic, or when the element is put into the page again. */
  #fail(err, { topic, src, end }) {
    if (end.signal.aborted) return;
    end.abort();
    this.#place?.removeAttribute("aria-busy");
    if (err.code === "bad_request" && this.#at && this.#at === this.getAttribute("since")) {
      this.#report("since", "a position");
      return this.#startAnew(topic);
    }
    this.setAttribute("state", err.code === "closed" ? "closed" : "failed");
    // The client has reported its own errors.
    if (this.#tell("live-error", err) && err.name !== "LiveError") reportError(new TypeError(`live: <live-topic src="${src}">: ${err.message}`));
  }

  /** Begins without the position of the content. */
  #startAnew(topic) {
    this.#at = undefined;
    this.#running = undefined;
    this.#tell("live-gap", { topic, reason: "not_recovered" });
    this.#later();
  }

  #tell(name, detail) {
    return this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, cancelable: /message|error/.test(name) }));
  }
}

/** Returns the client of an address. All elements share it. It is closed when the last of them has ended. */
function borrow(src, signal) {
  const address = new URL(src, document.baseURI).href;
  let entry = clients.get(address);
  if (!entry || entry.live.state === "closed") clients.set(address, (entry = { live: connect(address), users: 0 }));
  entry.users++;
  const giveBack = () => {
    if (--entry.users) return;
    entry.live.close();
    if (clients.get(address) === entry) clients.delete(address);
  };
  signal.addEventListener("abort", () => setTimeout(giveBack, IDLE));
  return entry.live;
}

/**
 * Subscribes to a topic. A client gives the messages after `since`, the `last` ones, or all keys only to the first subscriber
 * of a topic. This function gets them for later ones too. The promise resolves when they have come.
 */
async function follow(live, topic, { since, last, signal, hear, failed, onGap, onEnd }) {
  const options = { since, last, signal };
  const late = live.presence(topic) === live.presence(topic); // without a subscription each call returns a new object
  const keys = [...live.keys(topic)];
  const incomplete = late && !keys.length && (since || last);
  const held = []; // what must wait for the messages before it
  let waits = incomplete;
  let end = since; // of what the caller has; messages before it may be on the way still
  const hearNew = (message) => isAfter(message.at, end) && hear(message);
  const { ready } = live.subscribe(topic, (_, message) => (waits ? held.push(message) : hearNew(message)), { ...options, onGap, onEnd });
  for (const [key, data] of keys) hear({ topic, key, data, recovered: true });
  await ready;
  if (!incomplete) return;
  const past = await pastOf(live, topic, options, onGap).catch(failed);
  if (signal.aborted) return;
  for (const message of past ?? []) hear({ topic, ...message });
  waits = false;
  end = past?.at(-1)?.at ?? end;
  held.forEach(hearNew);
}

/** Positions of different epochs have no order. */
function isAfter(at = "", end = "") {
  const [epoch, offset] = at.split(".");
  const [ended, last] = end.split(".");
  return epoch !== ended || !(Number(offset) <= Number(last));
}

/** The messages after a position if there is one, and otherwise the last ones. */
async function pastOf(live, topic, { since, last, signal }, onGap) {
  try {
    const past = await live.history(topic, since ? MAX_HISTORY : last, { signal });
    const known = past.findIndex(({ at }) => at === since);
    if (known >= 0) return past.slice(known + 1);
    if (since) onGap({ topic, reason: "not_recovered" });
    return last ? past.slice(-last) : [];
  } catch (/** @type {any} */ err) {
    if (/^(timeout|disconnected)$/.test(err.code)) return pastOf(live, topic, { since, last, signal }, onGap);
    throw err;
  }
}

const rowsOf = (place) => [...(place?.children ?? [])].filter(({ dataset }) => dataset?.key !== undefined);
const find = (place, name) => [...place.children].find(({ dataset, id }) => dataset?.key === name || id === name);

/** A message as text. In a list it is an item. */
function textOf(data, how, place) {
  const content = document.createDocumentFragment();
  const text = typeof data === "string" ? data : JSON.stringify(data);
  const parent = how === "replace" ? content : document.createElement(/^[OU]L$/.test(place.tagName) ? "li" : "div");
  parent.append(text);
  if (parent !== content) content.append(parent);
  return content;
}

/** A message as HTML. What is in a template does nothing until it is in the page. */
function parse(data) {
  const html = data?.html ?? data;
  if (typeof html !== "string") throw new TypeError("live: <live-topic html> needs a string of HTML, or an object with html");
  const template = document.createElement("template");
  template.innerHTML = html.trim(); // templates in Go mostly end with a line
  removeScripts(template.content);
  return template.content;
}

/** Removes what the sanitizer of browsers (Element.setHTML) always removes, in browsers without one too. */
function removeScripts(content) {
  // A form's own property may be an input of that name.
  const { getAttribute, getAttributeNames, removeAttribute } = Element.prototype;
  for (const element of content.querySelectorAll(SCRIPTS)) element.remove();
  for (const element of content.querySelectorAll("*")) {
    for (const name of getAttributeNames.call(element)) {
      const value = getAttribute.call(element, name) ?? "";
      const address = value.replace(/[\p{Cc}\s]/gu, ""); // browsers ignore some of these
      const runs = /^on/i.test(name) || /^javascript:/i.test(address);
      const animates = /^attributename$/i.test(name) && /href$/i.test(address); // into a javascript: address
      const includes = element.localName === "use" && /^data:/i.test(address);
      if (runs || animates || includes) removeAttribute.call(element, name);
    }
    if (element instanceof HTMLTemplateElement) removeScripts(element.content);
  }
}

/** A page may load this module twice, by two addresses. Then the first one counts. */
const earlier = globalThis.customElements?.get("live-topic");
if (!earlier) globalThis.customElements?.define("live-topic", TopicElement);

export const LiveTopic = /** @type {typeof TopicElement} */ (earlier ?? TopicElement);
