// The messages on the page. What people wrote becomes text nodes, never HTML.

/** Messages of one person that are no further apart are shown as one group, in ms. */
const GROUP = 5 * 60 * 1000;

/** How near the end of the log counts as being there, in px: less than a message. */
const NEAR = 32;

/** The same bound as a room's. */
const MAX_ITEMS = 500;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export class Log {
  #frame;
  #list;
  #empty;
  #cue;
  #atEnd = true;
  #unread = 0;

  /** The items of pending messages, by key. They come last. */
  #pending = new Map();

  /**
   * @param frame what scrolls
   * @param list in the frame: the messages
   * @param empty shown while there are none
   * @param cue a button, shown when there are new ones below
   */
  constructor(frame, list, empty, cue) {
    this.#frame = frame;
    this.#list = list;
    this.#empty = empty;
    this.#cue = cue;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    cue.addEventListener("click", () => this.#leaveCue());
    new ResizeObserver(() => this.#atEnd && this.#toEnd()).observe(frame);
  }

  /** Shows another room, from its end. */
  show(room, me) {
    this.#frame.setAttribute("aria-busy", "true"); // nobody wants all of it read out
    this.#list.replaceChildren();
    this.#pending.clear();
    for (const entry of room.entries) this.#insert(entry, me);
    for (const message of room.pending.values()) this.addPending(message);
    this.#frame.removeAttribute("aria-busy");
    this.#toEnd();
    this.#refresh();
  }

  /** Shows what is new: messages from the server, and notes. */
  add(entries, me) {
    const follow = this.#atEnd;
    let others = 0;
    for (const entry of entries) {
      const added = this.#insert(entry, me);
      if (added && !entry.note && entry.person !== me) others++;
    }
    while (this.#list.children.length > MAX_ITEMS) this.#list.firstElementChild.remove();
    if (follow) this.#toEnd();
    else this.#unread += others;
    this.#refresh();
  }

  /** Shows an own message that is not sent yet. */
  addPending(message) {
    const item = messageItem(message, true);
    item.classList.add("pending");
    this.#list.append(item);
    this.#pending.set(message.key, item);
    this.#group(item);
    this.#toEnd();
    this.#refresh();
  }

  /** Tells beside an own message why the server did not take it. */
  refuse(key, reason) {
    const item = this.#pending.get(key);
    if (!item) return;
    this.#pending.delete(key);
    item.classList.replace("pending", "refused");
    item.querySelector(".status").textContent = "not sent";
    item.querySelector(".bubble").append(element("p", "reason", `Not sent: ${reason}.`));
    if (this.#atEnd) this.#toEnd();
  }

  /** Puts an entry in its place, before what is pending. Returns false if only a pending message was confirmed. */
  #insert(entry, me) {
    const mine = entry.person !== undefined && entry.person === me;
    const waiting = mine && this.#pending.get(entry.key);
    const item = waiting || (entry.note ? noteItem(entry) : messageItem(entry, mine));
    if (waiting) {
      confirm(item, entry);
      this.#pending.delete(entry.key);
    }
    const before = this.#pending.values().next().value ?? null;
    if (item.nextElementSibling !== before || !item.isConnected) this.#list.insertBefore(item, before);
    this.#group(item);
    if (item.nextElementSibling) this.#group(item.nextElementSibling);
    return !waiting;
  }

  /** Leaves out the name where the message before has said it, and names the day where it changes. */
  #group(item) {
    if (item.classList.contains("note")) return;
    const before = item.previousElementSibling;
    const at = Number(item.dataset.at);
    const known = before?.dataset.from === item.dataset.from && at - Number(before.dataset.at) < GROUP;
    item.classList.toggle("continues", known);
    const dayBefore = before?.dataset.at ? Number(before.dataset.at) : Date.now();
    const newDay = new Date(dayBefore).toDateString() !== new Date(at).toDateString();
    item.querySelector(".day")?.remove();
    if (newDay) item.prepend(element("p", "day", calendar.format(at)));
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#frame;
    this.#atEnd = scrollHeight - scrollTop - clientHeight <= NEAR;
    if (this.#atEnd) this.#unread = 0;
    this.#refresh();
  }

  #toEnd() {
    this.#atEnd = true;
    this.#unread = 0;
    this.#frame.scrollTop = this.#frame.scrollHeight;
    this.#refresh();
  }

  #leaveCue() {
    this.#frame.focus({ preventScroll: true }); // the cue, which has the focus, goes
    this.#toEnd();
  }

  #refresh() {
    this.#empty.hidden = this.#list.children.length > 0;
    this.#cue.hidden = this.#unread === 0;
    this.#cue.textContent = `${this.#unread} new message${this.#unread === 1 ? "" : "s"} ↓`;
  }
}

/** A colour for a person: the same in every tab. */
export function hueOf(id) {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.codePointAt(0)) % 3600;
  return hash % 360;
}

/** The first letters of a name's first two words. */
export function initialsOf(name) {
  return name
    .split(/\s+/)
    .slice(0, 2)
    .map((word) => [...word][0]?.toUpperCase() ?? "")
    .join("");
}

/** An element with a text. */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The round picture of a person, which a screen reader need not hear of: the name is beside it. */
export function avatar(id, name) {
  const made = element("span", "avatar", initialsOf(name));
  made.setAttribute("aria-hidden", "true");
  made.style.setProperty("--hue", hueOf(id));
  return made;
}

function messageItem(message, mine) {
  const item = element("li", mine ? "message mine" : "message");
  const author = message.person ?? message.via + message.name;
  item.dataset.from = mine ? "me" : author;
  if (!mine) item.append(avatar(author, message.name));

  const body = element("div", "body");
  const from = element("p", mine ? "from unseen" : "from");
  from.append(element("bdi", "", mine ? "You" : message.name));
  if (message.via) from.append(" ", element("span", "via", message.via === "http" ? "over HTTP" : "background job"));

  const bubble = element("div", "bubble");
  const text = element("p", "text", message.text);
  text.dir = "auto";
  const foot = element("p", "foot");
  if (message.late) foot.append(element("span", "late", "caught up"));
  foot.append(element("time"));
  if (mine) foot.append(element("span", "tick"), element("span", "status unseen", message.person ? "sent" : "sending"));
  bubble.append(text, foot);
  body.append(from, bubble);
  item.append(body);
  setTime(item, message.time);
  return item;
}

function noteItem({ note, gap }) {
  return element("li", gap ? "note gap" : "note", note);
}

function confirm(item, message) {
  item.classList.remove("pending");
  item.querySelector(".status").textContent = "sent";
  setTime(item, message.time);
}

function setTime(item, iso) {
  const at = new Date(iso);
  const time = item.querySelector("time");
  item.dataset.at = at.getTime();
  time.dateTime = iso;
  time.textContent = clock.format(at);
  time.title = full.format(at);
}
