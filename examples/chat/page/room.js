// What the page knows of one room, apart from how it is shown.

/** How much of a room a page keeps: enough to read back, little enough to stay quick. */
const MAX_ENTRIES = 500;

export class Room {
  /** What is shown, oldest first: messages, and notes {type: "note", text}. */
  entries = [];

  /** Own messages that the server has not sent back yet, by key, in the order they were written. */
  pending = new Map();

  /** The people here, and how many they are. */
  people = [];
  count = 0;

  /** The place in the room's history up to which the page has everything; 0: it has nothing. */
  last = 0;

  constructor(name) {
    this.name = name;
    this.topic = "room:" + name;
  }

  /** Adds a message that the server sent. Returns false if it was here already. */
  add(message) {
    this.last = Math.max(this.last, message.id);
    this.pending.delete(message.key);
    if (this.#has(message)) return false;
    this.#push(message);
    return true;
  }

  /** Takes what the server sent upon entering. Returns the entries that are new. */
  catchUp({ messages, last, gap }) {
    const returning = this.last !== 0;
    const news = messages.filter((message) => !this.#has(message));
    const notes = [];
    if (gap) notes.push(note("Some messages may be missing here: the server no longer has them."));
    else if (returning && news.some((message) => !this.pending.has(message.key))) notes.push(note("While you were away"));

    for (const entry of notes) this.#push(entry);
    for (const message of news) this.add(message);
    this.last = last;
    return [...notes, ...news];
  }

  /** Adds an own message that waits for the server. */
  write(text, name) {
    const message = { type: "message", key: newKey(), name, text, at: new Date().toISOString() };
    this.pending.set(message.key, message);
    return message;
  }

  /** Takes a pending message back, and returns it. */
  refuse(key) {
    const message = this.pending.get(key);
    this.pending.delete(key);
    return message;
  }

  // By key too: a message that was sent again after a restart of the server has a new id.
  #has({ id, person, key }) {
    return this.entries.some((known) => known.id === id || (key && known.key === key && known.person === person));
  }

  #push(entry) {
    this.entries.push(entry);
    if (this.entries.length > MAX_ENTRIES) this.entries.shift();
  }
}

function note(text) {
  return { type: "note", text };
}

/** Not crypto.randomUUID, which is missing on pages that came over plain HTTP from another machine. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
