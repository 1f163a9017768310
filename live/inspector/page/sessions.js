// The sessions of this server.
import { get, post } from "./api.js";
import { facts, openDetail } from "./detail.js";
import { ago, byId, bytes, count, make, plural, quoted, setParts, setText, short, show, span, timeOfDay, visible } from "./dom.js";
import { bar, opener, Table, text } from "./table.js";

/** What a client does when it is closed with a code. */
const codes = [
  [1012, "Come back: the client reconnects and resumes"],
  [4200, "Sign in again: the client comes back with a new token"],
  [1000, "Stay away: the client does not come back"],
];

const userOf = ({ user }) => user || "no user";
const where = ({ catchingUp }) => (catchingUp ? `catching up in ${plural(catchingUp, "topic")}` : "live");
const waits = ({ messages, bytes: size }) => (messages || size ? `${bytes(size)} in ${plural(messages, "message")}` : "nothing");

export class Sessions {
  #table;
  #topic = ""; // only its subscribers are shown; "": all
  #only = make("p", { className: "only" });
  #onlyText = make("span", {});
  allowed = false; // to close sessions
  now = 0; // the server's time

  constructor() {
    const all = make("button", { type: "button" }, "Show all sessions");
    all.addEventListener("click", () => this.ofTopic(""));
    this.#only.append(this.#onlyText, " ", all);
    show(this.#only, false);
    byId("panel-sessions").append(this.#only);
    this.#table = new Table({
      panel: byId("panel-sessions"),
      source: "sessions",
      title: "Sessions of this server",
      noun: "session",
      key: "id",
      sort: "queue",
      search: "User or ID",
      empty: "Nobody is connected to this server.",
      parameters: () => ({ topic: this.#topic }),
      columns: [
        { id: "user", label: "User", sorts: true, fill: opener((row) => this.open(row), userOf, ({ id }) => short(id)) },
        { id: "queue", label: "Waiting", number: true, sorts: true, firstOrder: "descending", fill: bar((row) => (row.bytes ? bytes(row.bytes) : "–"), (row) => row.bytes) },
        { id: "position", label: "Position", wide: true, sorts: true, firstOrder: "descending", fill: pill },
        { id: "topics", label: "Topics", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => count(row.topics)) },
        { id: "heard", label: "Last seen", number: true, sorts: true, fill: text((row) => ago(this.now - row.heard)) },
        { id: "age", label: "Age", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => span(this.now - row.since)) },
        { id: "close", label: make("span", { className: "unseen" }, "Close"), wide: true, fill: (cell, row) => this.#closeButton(cell, row) },
      ],
    });
  }

  poll() {
    return this.#table.poll();
  }

  /** Shows only the sessions that are subscribed to a topic. */
  ofTopic(topic) {
    this.#topic = topic;
    show(this.#only, topic !== "");
    setParts(this.#onlyText, "Only subscribers of ", quoted(topic), ".");
    this.#table.begin("");
  }

  #closeButton(cell, row) {
    if (!this.allowed) return;
    let button = cell.firstElementChild;
    if (!button) {
      button = make("button", { type: "button", className: "small" }, "Close");
      button.addEventListener("click", () => this.open(button.row));
      cell.append(button);
    }
    button.row = row;
    button.setAttribute("aria-label", `Close the session of ${visible(userOf(row))}, ${visible(row.id)}`);
  }

  /** Opens a session. */
  async open({ id, user }) {
    const title = user || "Session without a user";
    let row;
    try {
      row = await get("session", { id });
    } catch (error) {
      openDetail(title, make("p", {}, error.message));
      return;
    }
    openDetail(
      title,
      facts({
        ID: make("code", {}, visible(row.id)),
        "Connected": `${span(this.now - row.since)} ago, at ${timeOfDay(row.since)}`,
        "Last seen": ago(this.now - row.heard),
        "Waits for the client": waits(row),
        "Waits for the application": row.unhandled ? plural(row.unhandled, "message") : "nothing",
        "Position": row.catchingUp ? where(row) : "live: it is sent publications as they come",
        "Sign-in expires": row.expires ? timeOfDay(row.expires) : undefined,
        "Speaks": (row.liveV1 ? "live.v1" : "plain messages") + (row.compressed ? ", compressed" : ""),
      }),
      ...subscriptions(row),
      this.#closeForm(row),
    );
  }

  #closeForm({ id }) {
    if (!this.allowed) return make("p", { className: "faint" }, "To close sessions here, set Allow.Close in the inspector's Options.");
    const code = make("select", { name: "code" }, ...codes.map(([value, label]) => make("option", { value }, `${label} (${value})`)));
    const reason = make("input", { name: "reason", maxLength: 120, value: "closed in the inspector" });
    const output = make("output", { role: "status" });
    const button = make("button", { className: "danger" }, "Close this session");
    const form = make(
      "form",
      { className: "close-form" },
      make("h3", {}, "Close this session"),
      make("label", {}, "The client should ", code),
      make("label", {}, "Reason, which the page sees ", reason),
      button,
      output,
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        setText(output, await post("close", { id, code: Number(code.value), reason: reason.value }));
        await this.poll();
      } catch (error) {
        button.disabled = false;
        setText(output, error.message);
      }
    });
    return form;
  }
}

function pill(cell, row) {
  let mark = cell.firstElementChild;
  if (!mark) {
    mark = make("span", { className: "pill" });
    cell.append(mark);
  }
  mark.dataset.tone = row.catchingUp ? "warn" : "faint";
  setText(mark, row.catchingUp ? where(row) : row.topics ? "live" : "no topics");
}

function subscriptions({ topics, subscriptions: rows }) {
  if (!rows.length) return [make("p", { className: "faint" }, "It is subscribed to no topic.")];
  const cells = ({ topic, position, catchingUp, behind }) => [visible(topic), position || "no history", catchingUp ? `behind by ${count(behind)}` : "live"];
  const lines = rows.map((row) => make("tr", {}, ...cells(row).map((value) => make("td", {}, value))));
  const more = topics > rows.length ? [make("p", { className: "faint" }, `The first ${rows.length} of ${count(topics)} topics.`)] : [];
  const head = ["Topic", "Position", ""].map((label) => make("th", { scope: "col" }, label));
  return [
    make("div", { className: "scroll" }, make("table", {}, make("caption", {}, "Its topics"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines))),
    ...more,
  ];
}
