// Live topics over WebSocket: reconnects, subscribes again, sends what waited.
// live.d.ts describes the API, with each default and its reason.

/** @import * as api from "./live.d.ts" */

/** WebSocket.OPEN */
const OPEN = 1;

/** The close code of an end without a close frame. */
const ABNORMAL = 1006;

/** No server may keep a client away for longer, in ms. */
const MAX_WINDOW = 60_000;

/** Moments at which the server may be in reach again. */
const WAKE_EVENTS = ["online", "pageshow", "focus", "visibilitychange"];

/** @type {typeof api.connect} */
export function connect(url, options) {
  return new LiveClient(url, options);
}

/** @implements {api.LiveError} */
export class LiveError extends Error {
  /**
   * @param {api.LiveErrorCode} code
   * @param {string} text
   */
  constructor(code, text) {
    super("live: " + text);
    this.name = "LiveError";
    this.code = code;
  }
}

/** @implements {api.LiveClient} */
export class LiveClient {
  #options;
  #topics = new Listeners();
  #events = new Listeners();

  /** Frames that wait for a connection. @type {string[]} */
  #buffer = [];

  /** @type {api.State} */
  #state = "connecting";

  /** The one whose events are heard. @type {api.SocketLike | undefined} */
  #socket;

  /** The connect timeout or the next retry. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #due = 0;

  #openedAt = 0;
  #attempt = 0;
  #hurried = false;
  #awake = new AbortController();

  /**
   * @param {string | URL} [url]
   * @param {api.Options} [options]
   */
  constructor(url = "/live", options = {}) {
    this.url = resolve(url);
    this.#options = withDefaults(options);
    this.#dial();
    this.#listenForWake();
  }

  get state() {
    return this.#state;
  }

  get retryIn() {
    return this.#state === "waiting" ? Math.max(0, this.#due - Date.now()) : undefined;
  }

  /** @type {api.LiveClient["on"]} */
  on(name, fn) {
    return this.#events.add(name, fn);
  }

  /** @type {api.LiveClient["subscribe"]} */
  subscribe(topic, fn) {
    this.#refuseIfClosed();
    const first = !this.#topics.has(topic);
    const off = this.#topics.add(topic, fn);
    if (first) this.#tell(this.#options.subscribeMessage, topic);
    return () => {
      if (off()) this.#tell(this.#options.unsubscribeMessage, topic);
    };
  }

  /** @type {api.LiveClient["publish"]} */
  publish(topic, data) {
    const message = this.#options.publishMessage(topic, data);
    return this.send(message.topic, message.data);
  }

  /** @type {api.LiveClient["send"]} */
  send(topic, data) {
    this.#refuseIfClosed();
    const frame = encode({ topic, data });
    if (this.#ready && !this.#buffer.length) {
      this.#socket?.send(frame);
      return true;
    }
    if (this.#buffer.length >= this.#options.maxBuffered) {
      throw new LiveError("buffer_full", `not connected, and ${this.#buffer.length} messages wait already`);
    }
    this.#buffer.push(frame);
    return false;
  }

  close() {
    if (this.#state === "closed") return;
    this.#finish();
    this.#events.clear();
  }

  // Where Symbol.dispose is missing this is a method that nobody calls.
  [Symbol.dispose]() {
    this.close();
  }

  // A connection's life: dialled, then opened or lost; lost, then waiting or finished.

  #dial() {
    const socket = new this.#options.WebSocket(this.url);
    // An old socket is never heard. Its listeners stay: in Node, an error without one would end the process.
    /** @type {api.SocketLike["addEventListener"]} */
    const hear = (name, fn) => socket.addEventListener(name, (event) => socket === this.#socket && fn(event));
    hear("open", () => this.#opened());
    hear("message", (event) => this.#receive(event.data));
    hear("close", (event) => this.#lost(event));
    hear("error", () => {}); // the close event that always follows is enough

    this.#socket = socket;
    this.#after(this.#options.connectTimeout, () => this.#giveUp());
    this.#become("connecting");
  }

  #redial() {
    try {
      this.#dial();
    } catch (err) {
      this.#wait({ code: ABNORMAL, reason: String(err) });
    }
  }

  #giveUp() {
    const hung = this.#socket;
    this.#socket = undefined;
    hung?.close();
    this.#lost({ code: ABNORMAL, reason: "connect timeout" });
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#openedAt = Date.now();
    this.#state = "open"; // announced below: first the server hears what it must, then the page
    for (const topic of [...this.#topics.keys()]) this.#tell(this.#options.subscribeMessage, topic);
    if (!this.#socket) return; // that function has closed the client
    for (const frame of this.#buffer.splice(0)) this.#socket.send(frame);
    this.#become("open");
    this.#events.call("open", this.#report);
  }

  /** @param {api.Ending} ending */
  #lost({ code, reason }) {
    const wasOpen = this.#state === "open";
    this.#socket = undefined;
    if (wasOpen && Date.now() - this.#openedAt >= this.#options.stableAfter) {
      this.#attempt = 0;
      this.#hurried = false;
    }
    if (isFinal(code)) this.#finish({ code, reason });
    else this.#wait({ code, reason });
    if (wasOpen) this.#events.call("close", this.#report, { code, reason });
  }

  /** @param {api.Ending} ending */
  #wait(ending) {
    const retryIn = Math.round(this.#delay(ending));
    this.#attempt++;
    this.#after(retryIn, () => this.#redial());
    this.#become("waiting", { retryIn, ...ending });
  }

  /** Full jitter: clients that fell together must not return together. @param {api.Ending} ending */
  #delay(ending) {
    if (isAtOnce(ending.code) && !this.#hurried) {
      this.#hurried = true;
      return 0;
    }
    const { minBackoff, maxBackoff, random } = this.#options;
    return random() * (namedWindow(ending) || Math.min(maxBackoff, minBackoff * 2 ** this.#attempt));
  }

  /** @param {Partial<api.Ending>} [ending] */
  #finish(ending) {
    const socket = this.#socket;
    const unsent = this.#buffer.length;
    this.#socket = undefined;
    this.#buffer = [];
    clearTimeout(this.#timer);
    this.#awake.abort();
    this.#topics.clear();
    socket?.close(1000);
    this.#become("closed", { ...ending, unsent });
  }

  // A sleeping page's timers come late: these events do not, and the clock on the wall decides.

  #listenForWake() {
    const { signal } = this.#awake;
    for (const name of WAKE_EVENTS) {
      const target = name === "visibilitychange" ? globalThis.document : globalThis;
      target?.addEventListener?.(name, () => this.#wake(name), { signal });
    }
  }

  /** @param {string} name */
  #wake(name) {
    // Read now: a remembered flag is wrong for ever once one event is lost.
    if (name === "visibilitychange" && document.visibilityState !== "visible") return;
    if (this.#state === "connecting" && Date.now() >= this.#due) this.#giveUp();
    if (this.#state === "waiting") this.#redial();
  }

  // What goes out and what comes in.

  /** A closing socket loses what it is given, before its close event is heard. */
  get #ready() {
    return this.#state === "open" && this.#socket?.readyState === OPEN;
  }

  /**
   * Keeps nothing for later: each reconnect says it all again.
   *
   * @param {(topic: string) => api.Outgoing | null} say
   * @param {string} topic
   */
  #tell(say, topic) {
    if (!this.#ready) return;
    try {
      const message = say(topic);
      if (message) this.#socket?.send(encode(message));
    } catch (err) {
      this.#report(err);
    }
  }

  /** @param {unknown} frame */
  #receive(frame) {
    const message = decode(frame);
    if (!message) return this.#report(new LiveError("bad_message", "the server sent what is not a message"));
    this.#events.call("message", this.#report, message);
    this.#topics.call(message.topic, this.#report, message.data, message);
  }

  #refuseIfClosed() {
    if (this.#state === "closed") throw new LiveError("closed", "the client is closed; connect again");
  }

  /**
   * @param {api.State} state
   * @param {Partial<api.StateEvent>} [detail]
   */
  #become(state, detail) {
    this.#state = state;
    this.#events.call("state", this.#report, { state, attempt: this.#attempt, ...detail });
  }

  /**
   * @param {number} ms
   * @param {() => void} fn
   */
  #after(ms, fn) {
    clearTimeout(this.#timer);
    this.#due = Date.now() + ms;
    this.#timer = setTimeout(fn, ms);
  }

  #report = (/** @type {unknown} */ err) => {
    if (this.#events.has("error")) this.#events.call("error", lastResort, err);
    else lastResort(err);
  };
}

/**
 * Functions by name. One that fails stops no other.
 *
 * @extends {Map<string, Set<{ fn: Function }>>}
 */
class Listeners extends Map {
  /**
   * Returns what takes it off again, and says whether it was the last.
   *
   * @param {string} name
   * @param {Function} fn
   */
  add(name, fn) {
    const set = this.get(name) ?? new Set();
    const entry = { fn }; // not fn itself: the same function may be added twice
    this.set(name, set.add(entry));
    return () => set.delete(entry) && !set.size && this.delete(name);
  }

  /**
   * Calls those that were there when it began and still are.
   *
   * @param {string} name
   * @param {(err: unknown) => void} failed
   * @param {unknown[]} args
   */
  call(name, failed, ...args) {
    const set = this.get(name) ?? new Set();
    for (const entry of [...set]) {
      if (!set.has(entry)) continue;
      try {
        entry.fn(...args)?.then?.(undefined, failed);
      } catch (err) {
        failed(err);
      }
    }
  }

  clear() {
    for (const set of this.values()) set.clear(); // also stops a call that is under way
    super.clear();
  }
}

// The plain wire: one {"topic", "data"} a text frame, both ways.

/** @param {api.Outgoing} message */
function encode({ topic, data }) {
  if (typeof topic !== "string") throw new TypeError("live: a topic is a string");
  return JSON.stringify({ topic, data: data ?? null });
}

/** @param {any} frame */
function decode(frame) {
  try {
    const message = JSON.parse(frame);
    if (typeof message.topic === "string") return message;
  } catch {
    // Not JSON: not a message.
  }
}

// The close codes: their range says what to do.

/** @param {number} code */
const isFinal = (code) => code === 1000 || (code >= 4000 && code < 4100);

/** @param {number} code */
const isAtOnce = (code) => code >= 4200 && code < 4300;

/** The ms over which a server that restarts or is overloaded spreads its clients. @param {api.Ending} ending */
function namedWindow({ code, reason }) {
  const named = (code === 1012 || code === 1013) && /within (\d+) ms/.exec(reason);
  return named ? Math.min(+named[1], MAX_WINDOW) : 0;
}

/** @param {api.Options} options */
function withDefaults(options) {
  const WebSocket = options.WebSocket ?? globalThis.WebSocket;
  if (!WebSocket) throw new TypeError("live: there is no WebSocket here; give one in options.WebSocket");
  return {
    WebSocket,
    minBackoff: options.backoff?.min ?? 500,
    maxBackoff: options.backoff?.max ?? 20_000,
    stableAfter: options.stableAfter ?? 5_000,
    connectTimeout: options.connectTimeout ?? 10_000,
    maxBuffered: options.maxBuffered ?? 64,
    random: options.random ?? Math.random,
    subscribeMessage: options.subscribeMessage ?? ((topic) => ({ topic: "subscribe", data: { topic } })),
    unsubscribeMessage: options.unsubscribeMessage ?? ((topic) => ({ topic: "unsubscribe", data: { topic } })),
    publishMessage: options.publishMessage ?? ((topic, data) => ({ topic: "publish", data: { topic, data } })),
  };
}

/** @param {string | URL} url */
function resolve(url) {
  try {
    const full = new URL(url, globalThis.location?.href);
    full.protocol = full.protocol.replace("http", "ws");
    full.hash = ""; // a WebSocket refuses an address with one
    if (/^wss?:$/.test(full.protocol)) return full.href;
  } catch {
    // Said below.
  }
  throw new TypeError(`live: "${url}" leads to no ws(s) or http(s) address; give a full one`);
}

/** @param {unknown} err */
function lastResort(err) {
  (globalThis.reportError ?? console.error)(err);
}
