// The cards with the lines.
import { byId, bytes, count, make, rate, setText, span } from "./dom.js";

const WIDTH = 300, HEIGHT = 56, TOP = 4; // of a line, in its own units

/** The reasons of ClosedFor, as a person says them. */
const reasons = {
  Client: "client left", Lost: "connection lost", Protocol: "broke the protocol", TooBig: "message too big",
  Application: "by the application", User: "thrown out or signed out", Expired: "sign-in expired", Refused: "refused",
  Shutdown: "restart", Age: "too old", QueueFull: "queue full", UserBytes: "too much for the user", Replaced: "replaced",
  PingTimeout: "no answer to ping", WriteFailed: "took nothing", Panic: "callback failed",
};

const rounded = (n) => count(Math.round(n));
const perMinute = (n) => rate(n * 60);

/** What the cards show, in their order. say makes a text of a value. more tells more about it. */
const kinds = [
  { name: "sessions", title: "Sessions", say: rounded },
  { name: "delivered", title: "Deliveries", unit: "/s", say: rate },
  { name: "published", title: "Publications", unit: "/s", say: rate },
  { name: "waiting", title: "Waiting for clients", say: bytes },
  { name: "behind", title: "Catching up", say: rounded },
  { name: "closed", title: "Closes", unit: "/min", say: perMinute, more: whyClosed },
  { name: "resumed", title: "Resumes", unit: "/min", say: perMinute, more: howResumed },
];

function whyClosed(history, scope) {
  const grown = Object.entries(history.grown(scope, (s) => s.ClosedFor ?? {})).filter(([, n]) => n > 0);
  grown.sort(([, a], [, b]) => b - a);
  return grown.slice(0, 3).map(([name, n]) => `${reasons[name] ?? name} ${count(n)}`).join(" · ");
}

function howResumed(history, scope) {
  const { all, lost } = history.grown(scope, (s) => ({ all: (s.Recovered ?? 0) + (s.NotRecovered ?? 0), lost: s.NotRecovered ?? 0 }));
  return all ? `${count(all)} so far, ${count(lost)} with a gap` : "";
}

/** A card for each kind. */
export class Cards {
  #cards = kinds.map((kind) => new Card(kind));

  constructor() {
    byId("cards").append(...this.#cards.map((card) => card.element));
  }

  /** Shows the figures of a server, or of all. */
  draw(history, scope) {
    for (const card of this.#cards) card.draw(history, scope);
  }
}

class Card {
  #kind;
  #value = make("span", { className: "value" });
  #caption = make("p", { className: "caption" });
  #text = ""; // of the caption while nobody points at the line
  #svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #area = svg("path", { class: "area" });
  #line = svg("path", { class: "line" });
  #cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  #points = [];
  #now = 0;
  #window = 1; // ms that the line shows

  constructor(kind) {
    this.#kind = kind;
    this.#svg.append(this.#area, this.#line, this.#cursor);
    const unit = kind.unit ? [" ", make("span", { className: "unit" }, kind.unit)] : [];
    this.element = make(
      "div",
      { className: "card", "data-figure": kind.name },
      make("h3", {}, kind.title),
      make("p", { className: "now" }, this.#value, ...unit),
      this.#svg,
      this.#caption,
    );
    this.#svg.addEventListener("pointermove", (event) => this.#point(event));
    this.#svg.addEventListener("pointerleave", () => this.#unpoint());
  }

  draw(history, scope) {
    const { name, title, say, unit = "", more } = this.#kind;
    const runs = history.runs(scope, name);
    this.#points = runs.flat();
    this.#now = history.now;
    this.#window = history.window(scope);
    const newest = history.newest(scope, name);
    const most = Math.max(...this.#points.map(({ value }) => value), 0);
    setText(this.#value, newest === undefined ? "–" : say(newest));
    const at = ({ at: time, value }) => [this.#x(time), HEIGHT - (HEIGHT - TOP) * (most ? value / most : 0)];
    const paths = runs.map((run) => run.map(at).map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`));
    this.#line.setAttribute("d", paths.map((points) => `M${points.join("L")}`).join(""));
    const closed = (points) => `M${points[0].split(" ")[0]} ${HEIGHT}L${points.join("L")}L${points.at(-1).split(" ")[0]} ${HEIGHT}Z`;
    this.#area.setAttribute("d", paths.map(closed).join(""));
    const highest = this.#points.length > 1 ? `most ${say(most)}` : "";
    this.#text = [highest, more?.(history, scope)].filter(Boolean).join(" · ") || " ";
    this.#svg.setAttribute("aria-label", `${title} ${unit}: ${this.#value.textContent} now, ${say(most)} at most in the last ${span(this.#window)}`);
    if (!this.element.classList.contains("pointed")) setText(this.#caption, this.#text);
  }

  #x(time) {
    return WIDTH * (1 - (this.#now - time) / this.#window);
  }

  /** Shows the value under the pointer. */
  #point({ clientX }) {
    const { left, width } = this.#svg.getBoundingClientRect();
    const time = this.#now - this.#window * (1 - (clientX - left) / width);
    const distance = ({ at }) => Math.abs(at - time);
    const nearest = this.#points.reduce((best, point) => (best && distance(best) <= distance(point) ? best : point), undefined);
    if (!nearest) return;
    for (const end of ["x1", "x2"]) this.#cursor.setAttribute(end, this.#x(nearest.at));
    this.#cursor.setAttribute("visibility", "visible");
    this.element.classList.add("pointed");
    setText(this.#caption, `${this.#kind.say(nearest.value)} ${this.#kind.unit ?? ""}, ${span(this.#now - nearest.at)} ago`);
  }

  #unpoint() {
    this.#cursor.setAttribute("visibility", "hidden");
    this.element.classList.remove("pointed");
    setText(this.#caption, this.#text);
  }
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
