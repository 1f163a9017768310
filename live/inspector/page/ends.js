// Why clients were closed.
import { facts, openDetail } from "./detail.js";
import { ago, byId, bytes, count, make, plural, quoted, setParts, setText, short, span, timeOfDay, visible } from "./dom.js";
import { opener, Table, text } from "./table.js";

/** Kinds of ends that are no fault of anybody. */
const calm = new Set(["Client left", "Restart", "Session too old", "Closed by the application", "Thrown out or signed out", "Sign-in expired"]);

const toneOf = ({ kind }) => (calm.has(kind) ? "faint" : kind === "Connection lost" ? "warn" : "bad");
const codeOf = ({ code }) => (code ? `code ${code}` : "no close frame");
const waited = ({ bytes: size, messages }) => (messages || size ? `${bytes(size)} in ${plural(messages, "message")}` : "nothing");

export class Ends {
  #table;
  #kind = ""; // only ends of this kind are shown; "": all
  #chips = byId("kinds");
  now = 0; // the server's time

  constructor() {
    this.#table = new Table({
      panel: byId("panel-ends"),
      source: "ends",
      title: "The last thousand sessions that have ended at this server",
      noun: "end",
      key: "key",
      sort: "time",
      search: "User, ID, code or reason",
      empty: "No session has ended yet.",
      parameters: () => ({ kind: this.#kind }),
      onData: ({ kinds }) => this.#drawKinds(kinds),
      columns: [
        { id: "user", label: "User", sorts: true, fill: opener((row) => this.open(row), ({ user }) => user || "no user", ({ session }) => short(session)) },
        { id: "kind", label: "Why", sorts: true, fill: why },
        { id: "queue", label: "Had waiting", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => (row.bytes ? bytes(row.bytes) : "–")) },
        { id: "topics", label: "Topics", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => count(row.topics)) },
        { id: "age", label: "Lasted", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => span(row.age)) },
        { id: "time", label: "Ended", number: true, sorts: true, firstOrder: "descending", fill: text((row) => ago(this.now - row.time)) },
      ],
    });
  }

  poll() {
    return this.#table.poll();
  }

  #drawKinds(kinds) {
    const names = Object.keys(kinds).sort((a, b) => kinds[b] - kinds[a] || (a < b ? -1 : 1));
    if (this.#kind && !kinds[this.#kind]) names.push(this.#kind); // so that it can be chosen no more
    const known = new Map([...this.#chips.children].map((chip) => [chip.dataset.kind, chip]));
    const focused = document.activeElement;
    const chips = names.map((name) => known.get(name) ?? this.#chipOf(name));
    for (const chip of chips) {
      const { kind } = chip.dataset;
      chip.setAttribute("aria-pressed", String(kind === this.#kind));
      setText(chip.lastChild, count(kinds[kind] ?? 0));
    }
    if (chips.some((chip, i) => this.#chips.children[i] !== chip) || this.#chips.children.length !== chips.length) this.#chips.replaceChildren(...chips);
    if (chips.includes(focused)) focused.focus({ preventScroll: true });
  }

  #chipOf(kind) {
    const chip = make("button", { type: "button", className: "filter", "data-kind": kind }, `${kind} `, make("span", {}));
    chip.addEventListener("click", () => {
      this.#kind = this.#kind === kind ? "" : kind;
      this.#table.begin();
    });
    return chip;
  }

  /** Opens an end. */
  open(row) {
    openDetail(
      row.user || "Session without a user",
      make("p", { className: "lead" }, make("span", { className: "pill", "data-tone": toneOf(row) }, row.kind), ` ${row.meaning}`),
      facts({
        "Ended": `${ago(this.now - row.time)}, at ${timeOfDay(row.time)}`,
        "Lasted": span(row.age),
        "Close code": row.code ? String(row.code) : "none: there was no close frame",
        "Reason": row.reason ? visible(row.reason) : undefined,
        "Error": row.error ? visible(row.error) : undefined,
        "Waited for the client": waited(row),
        "Waited for the application": row.unhandled ? plural(row.unhandled, "message") : "nothing",
        "Was subscribed to": plural(row.topics, "topic") + (row.catchingUp ? `, caught up in ${count(row.catchingUp)}` : ""),
        "Session": make("code", {}, visible(row.session)),
      }),
    );
  }
}

function why(cell, row) {
  if (!cell.firstElementChild) cell.append(make("span", { className: "pill" }), make("span", { className: "below" }));
  cell.firstElementChild.dataset.tone = toneOf(row);
  setText(cell.firstElementChild, row.kind);
  const reason = row.reason && row.reason !== row.kind.toLowerCase() ? [", ", quoted(row.reason)] : [];
  setParts(cell.lastElementChild, codeOf(row), ...reason);
}
