// The topics that this server has in its memory.
import { closeDetail, facts, openDetail } from "./detail.js";
import { byId, count, make, plural, rate, span } from "./dom.js";
import { bar, opener, Table, text } from "./table.js";

const perSecond = (n) => (n < 0 ? "–" : `${rate(n)}/s`);
const rateOf = (row) => perSecond(row.rate);

function historyOf({ history, held, span: reach, keyed }) {
  if (keyed) return plural(held, "key");
  if (!history) return "none";
  return held ? `${count(held)} over ${span(reach)}` : "empty";
}

export class Topics {
  #table;
  #actions; // {label: function(topic)}

  constructor(actions) {
    this.#actions = actions;
    this.#table = new Table({
      panel: byId("panel-topics"),
      source: "topics",
      title: "Topics of this server",
      noun: "topic",
      key: "topic",
      sort: "rate",
      search: "Topic",
      empty: "No topic has a subscriber at this server.",
      columns: [
        { id: "topic", label: "Topic", sorts: true, fill: opener((row) => this.open(row), ({ topic }) => topic, below) },
        { id: "rate", label: "Rate", number: true, sorts: true, firstOrder: "descending", fill: bar(rateOf, ({ rate: n }) => n) },
        { id: "subscribers", label: "Subscribers", number: true, sorts: true, firstOrder: "descending", fill: text((row) => count(row.subscribers)) },
        { id: "deliveries", label: "Deliveries", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => perSecond(row.deliveries)) },
        { id: "catchingUp", label: "Catching up", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => (row.catchingUp ? count(row.catchingUp) : "–")) },
        { id: "history", label: "History held", wide: true, sorts: true, firstOrder: "descending", fill: text(historyOf) },
        { id: "presence", label: "Present", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => (row.presence ? count(row.present) : "–")) },
        { id: "published", label: "Published", number: true, wide: true, sorts: true, firstOrder: "descending", fill: text((row) => count(row.published)) },
      ],
    });
  }

  poll() {
    return this.#table.poll();
  }

  /** Opens a topic. */
  open(row) {
    const buttons = Object.entries(this.#actions).map(([label, act]) => {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", () => {
        closeDetail();
        act(row.topic);
      });
      return button;
    });
    openDetail(
      row.topic,
      facts({
        "Subscribers here": count(row.subscribers),
        "Of them catching up": count(row.catchingUp),
        "Deliveries here": perSecond(row.deliveries),
        "Functions that listen here": count(row.listeners),
        "Publications": `${rateOf(row)}, ${count(row.published)} since this server has the topic`,
        "History": row.keyed ? `keyed, ${plural(row.held, "key")}` : row.history ? `keeps ${count(row.history)}; this server holds ${historyOf(row)}` : "none",
        "Newest position": row.position ? make("code", {}, row.position) : undefined,
        "Present, on all servers": row.presence ? count(row.present) : "no presence",
      }),
      make("div", { className: "actions" }, ...buttons),
    );
  }
}

function below({ keyed, history, presence }) {
  return [keyed ? "keyed" : history ? "history" : "", presence ? "presence" : ""].filter(Boolean).join(", ") || "no history";
}
