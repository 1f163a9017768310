// What is published to one topic, as it comes.
import { get } from "./api.js";
import { byId, bytes, count, make, quoted, rate, setParts, setText, show, timeOfDay, visible, visibleLines } from "./dom.js";

const MAX_ROWS = 200;
const HIDDEN = "hidden";

export class Tail {
  #form = byId("tail-form");
  #topic = byId("tail-topic");
  #button = byId("tail-button");
  #payloads = byId("tail-payloads");
  #note = byId("tail-note");
  #rows = byId("tail-rows");
  #body = this.#rows.querySelector("tbody");
  #followed = ""; // "": no topic
  #after = 0;
  #seen; // {at, count} of the last answer
  #asked = 0; // requests so far: only the answer to the newest counts

  constructor() {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#followed && this.#followed === this.#topic.value) this.#stop();
      else this.follow(this.#topic.value);
    });
    this.#topic.addEventListener("input", () => this.#label());
    this.#payloads.addEventListener("change", () => this.#restart());
    this.#say("Nothing is followed. While you follow a topic, this server listens to it.");
  }

  /** Says whether payloads may be seen. */
  set allowed(allowed) {
    show(this.#payloads.parentElement, allowed);
    show(byId("tail-off"), !allowed);
  }

  /** Follows a topic. */
  follow(topic) {
    this.#topic.value = topic;
    this.#followed = topic;
    this.#restart();
    this.#label();
    this.poll().catch(() => {}); // the next look tells
  }

  #stop() {
    this.#asked++;
    this.#followed = "";
    this.#label();
    this.#say("Stopped.");
  }

  #restart() {
    this.#asked++;
    this.#after = 0;
    this.#seen = undefined;
    this.#body.replaceChildren();
    show(this.#rows, false);
  }

  #label() {
    setText(this.#button, this.#followed && this.#followed === this.#topic.value ? "Stop" : "Follow");
  }

  #say(...parts) {
    setParts(this.#note, ...parts);
  }

  async poll() {
    const topic = this.#followed;
    if (!topic) return;
    const payloads = this.#payloads.checked;
    const number = ++this.#asked;
    let answer;
    try {
      answer = await get("tail", { topic, after: this.#after || undefined, payloads: payloads ? 1 : undefined });
    } catch (error) {
      if (number !== this.#asked) return;
      if (!error.status) throw error;
      this.#followed = "";
      this.#label();
      this.#say(error.message[0].toUpperCase() + error.message.slice(1));
      return;
    }
    if (number === this.#asked) this.#draw(answer);
  }

  #draw({ topic, seen, gaps, number, rows }) {
    const now = performance.now();
    const last = this.#seen;
    this.#seen = { at: now, count: seen };
    this.#after = number;
    const perSecond = last && seen >= last.count ? (1000 * (seen - last.count)) / (now - last.at) : undefined;
    const lost = gaps ? ` ${count(gaps)} gaps.` : "";
    this.#say("Following ", quoted(topic), `: ${count(seen)} so far, ${rate(perSecond)}/s. At most 10 of each second are shown.${lost}`);
    this.#body.prepend(...rows.map(lineOf).reverse());
    while (this.#body.rows.length > MAX_ROWS) this.#body.lastChild.remove();
    show(this.#rows, this.#body.rows.length > 0);
  }
}

function lineOf({ time, position, key, removed, size, data, clipped }) {
  const payload = removed ? "removed" : data === undefined ? HIDDEN : visibleLines(data) + (clipped ? "…" : "");
  return make(
    "tr",
    {},
    make("td", { className: "nowrap" }, timeOfDay(time)),
    make("td", { className: "code wide" }, position ?? "–"),
    make("td", { className: "code" }, key === undefined ? "–" : visible(key)),
    make("td", { className: "number" }, bytes(size)),
    make("td", { className: data === undefined ? "faint" : "code payload" }, payload),
  );
}
