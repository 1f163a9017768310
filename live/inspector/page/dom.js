// Elements, and figures as a person reads them.

/** Finds an element of the page by its id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element. Properties whose names begin with "aria-" or "data-", and role, are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|scope$)/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Sets a text if it differs. So a text that stays keeps its selection, and is not read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for a text of several parts, some of which may be elements. */
export function setParts(element, ...parts) {
  const text = parts.map((part) => part.textContent ?? part).join("");
  if (element.textContent !== text) element.replaceChildren(...parts);
}

/**
 * Characters that nobody sees, or that change the order of the others: controls, marks of direction, spaces without
 * a width, empty letters. With them a user's name can look like that of another user, or like no name.
 */
const UNSEEN =
  /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]|(?<![^\0-\u024f])[\u200c\u200d]|[\u200c\u200d]$/gu;

const codePoint = (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;

/** A text of a user, with a mark for each character that cannot be seen. It may have several lines. */
export const visibleLines = (text) => text.replace(UNSEEN, codePoint);

/** A name of a user. Tabs, line ends, and spaces at its beginning and end have marks too. */
export const visible = (text) => visibleLines(text).replace(/[\t\n]/g, codePoint).replace(/^\s+|\s+$/g, (spaces) => "␣".repeat(spaces.length));

/** A name within a sentence. If it is written from right to left, the sentence keeps its order. */
export const quoted = (name) => make("bdi", {}, visible(name));

/** Shows or hides an element. */
export function show(element, shown) {
  element.hidden = !shown;
}

const wholeNumber = new Intl.NumberFormat("en");
const oneDigit = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A number in at most five digits or so. */
export function count(n) {
  if (n < 10_000) return wholeNumber.format(n);
  if (n < 1_000_000) return oneDigit.format(n / 1000) + "k";
  return oneDigit.format(n / 1_000_000) + "M";
}

/** A number of events in a second. undefined or -1: it is not known yet. */
export function rate(n) {
  if (n === undefined || n < 0) return "–";
  if (n > 0 && n < 0.05) return "<0.1";
  return n < 100 ? oneDigit.format(n) : count(Math.round(n));
}

export function bytes(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  if (n < 1024 * 1024) return `${oneDigit.format(n / 1024)} KB`;
  return `${oneDigit.format(n / 1024 / 1024)} MB`;
}

const DAY = 86_400, HOUR = 3600, MINUTE = 60;

/** A time span given in milliseconds, in its two largest units. */
export function span(ms) {
  const s = Math.max(Math.round(ms / 1000), 0);
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) return two(s, MINUTE, "min", 1, "s");
  if (s < DAY) return two(s, HOUR, "h", MINUTE, "min");
  return two(s, DAY, "d", HOUR, "h");
}

function two(s, large, largeName, small, smallName) {
  const rest = Math.floor((s % large) / small);
  return `${Math.floor(s / large)} ${largeName}` + (rest ? ` ${rest} ${smallName}` : "");
}

/** How long ago something was. */
export const ago = (ms) => (ms < 1500 ? "now" : `${span(ms)} ago`);

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The time of day of a Unix time in milliseconds. */
export const timeOfDay = (at) => clock.format(at);

/** The beginning of an ID, which is enough to tell two apart. */
export const short = (id) => (id.length > 12 ? id.slice(0, 8) + "…" : id);

/** "1 topic", "2 topics". */
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
