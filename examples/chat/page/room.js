// What the page knows of one room, apart from how it is shown.

/** How much of a room a page keeps: enough to read back, little enough to stay quick. */
const MAX_ENTRIES = 500;

export class Room {
  /** What is shown, oldest first: messages, and notes {note, gap}. */
  entries = [];

  /** Own messages that have not come back from the server yet, by key, in the order they were written. */
  pending = new Map();

  /** Whether the page has been in the room before, so that what it gets of the history is what it missed. */
  entered = false;

  /** The place in the history up to which the page has the room, as the server calls it. */
  at;

  constructor(name) {
    this.name = name;
  }

  /**
   * Adds a message that came from the server, at once or out of the history. Returns the entries that are new. One is late
   * if the page was away when it was said.
   */
  add(message, at, fromHistory) {
    this.at = at;
    const mine = this.pending.delete(message.key);
    if (this.#has(message)) return [];
    const entry = { ...message, late: fromHistory && this.entered && !mine };
    const news = entry.late && !this.entries.at(-1)?.late ? [{ note: "While you were away", late: true }, entry] : [entry];
    this.#push(...news);
    return news;
  }

  /** Adds a note that messages have been lost. Returns it, as a new entry. */
  addGap() {
    this.at = undefined;
    const note = { note: "Some messages are missing here", gap: true, late: true };
    this.#push(note);
    return [note];
  }

  /** Adds an own message that waits for the server. */
  write(text, name) {
    const message = { key: newKey(), name, text, time: new Date().toISOString() };
    this.pending.set(message.key, message);
    return message;
  }

  // A message that was sent to two servers within the same moment, or again after a restart of one that forgets, has two
  // places in the history.
  #has({ person, key }) {
    return this.entries.some((known) => known.key === key && known.person === person);
  }

  #push(...entries) {
    this.entries.push(...entries);
    this.entries.splice(0, this.entries.length - MAX_ENTRIES);
  }
}

/** Not crypto.randomUUID, which is missing on pages that came over plain HTTP from another machine. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
