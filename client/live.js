// Live topics over WebSocket. live.d.ts describes the API.

/** @import * as api from "./live.d.ts" */

const LIVE_V1 = "live.v1"; // without this subprotocol, a connection speaks the plain wire
const MAX_BATCH = 1000; // operations in a frame
const OPEN = 1; // WebSocket.OPEN
const ABNORMAL = 1006; // no close frame

// In ms:
const MAX_WINDOW = 60_000; // no server may keep a client away for longer
const PING_SLACK = 10_000; // how late its ping may be
const TICK = 5_000; // an open line is looked at so often
const FRESH = 2_000; // a line heard since is alive

/** @type {typeof api.connect} */
export function connect(url, options) {
  return new LiveClient(url, options);
}

/** @implements {api.LiveError} */
export class LiveError extends Error {
  /** @param {api.LiveErrorCode} code @param {string} text */
  constructor(code, text) {
    super("live: " + text);
    this.name = "LiveError";
    this.code = code;
  }
}

/** @implements {api.LiveClient<any>} */
export class LiveClient {
  #options;
  #topics = new Listeners();
  #events = new Listeners();

  /** @type {Map<string, Wanted>} */
  #wanted = new Map();

  /** What waits for a connection. @type {Set<any>} */
  #buffer = new Set();

  /** What waits for an answer. @type {Map<number, (reply: any) => void>} */
  #asked = new Map();
  #id = 0;

  /** @type {api.State} */
  #state = "connecting";

  /** The one whose events are heard. @type {api.SocketLike | undefined} */
  #socket;
  #dials = 0;

  /** @type {any} */
  #timer;
  #due = 0;

  #v1 = false;
  #openedAt = 0;
  #heardAt = 0;
  #probedAt = 0;
  #patience = 0;

  #window = 0;
  #attempt = 0;
  #hurried = false;
  #awake = new AbortController();

  /** @param {string | URL} [url] @param {api.Options} [options] */
  constructor(url = "/live", options = {}) {
    const { signal } = options;
    this.url = resolve(url);
    this.#options = options;
    if (signal?.aborted) this.#finish();
    else this.#dial();
    this.#listenForWake();
    signal?.addEventListener("abort", () => this.close(), this.#awake);
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

  /** @type {(topic: string, fn: Function) => () => void} */
  listen(topic, fn) {
    this.#refuseIfClosed();
    return this.#topics.add(topic, fn);
  }

  /** @type {(topic: string, fn: Function, options?: api.SubscribeOptions) => api.Subscription} */
  subscribe(topic, fn, options = {}) {
    const { signal, onGap } = options;
    const ends = [this.listen(topic, fn)];
    if (onGap) ends.push(this.on("gap", (gap) => gap.topic === topic && onGap(gap)));
    const wanted = this.#wanted.get(topic) ?? new Wanted(topic, options);
    this.#wanted.set(topic, wanted);
    wanted.callers++;
    const stop = () => {
      if (!ends.length) return;
      signal?.removeEventListener("abort", stop);
      for (const end of ends.splice(0)) end();
      if (!--wanted.callers) this.#leave(wanted);
    };
    signal?.addEventListener("abort", stop);
    if (signal?.aborted) stop();
    else this.#join([wanted]);
    return Object.assign(stop, { ready: wanted.ready, [Symbol.dispose]: stop });
  }

  /** @type {(topic: string, data?: unknown, options?: api.CallOptions) => Promise<any>} */
  publish(topic, data = null, options) {
    return this.#call({ op: "publish", topic, data }, "at", options);
  }

  /** @type {(topic: string, data?: unknown, options?: api.CallOptions) => Promise<any>} */
  request(topic, data = null, options) {
    return this.#call({ op: "request", topic, data }, "data", options);
  }

  /** @type {(topic: string, limit?: number, options?: api.CallOptions) => Promise<any>} */
  history(topic, limit = 100, options) {
    return this.#call({ op: "history", topic, limit }, "messages", options);
  }

  /** @type {(topic: string, options?: api.CallOptions) => Promise<any>} */
  presence(topic, options) {
    return this.#call({ op: "presence", topic }, "members", options);
  }

  /** @type {(topic: string, data?: unknown) => boolean} */
  send(topic, data) {
    return this.#hand({ frame: plain({ topic, data }) });
  }

  reconnect() {
    if (this.#state === "open") this.#look(true);
    if (this.#state === "connecting" && Date.now() >= this.#due) this.#giveUp("connect timeout");
    if (this.#state === "waiting") this.#redial();
  }

  close() {
    if (this.#state === "closed") return;
    this.#finish();
    this.#events.clear();
  }

  [Symbol.dispose]() {
    this.close();
  }

  // A connection's life: dialled, then opened or lost; lost, then waiting or finished.

  #dial() {
    const { token, query, connectTimeout = 10_000 } = this.#options;
    const dial = ++this.#dials;
    if (token || query) {
      const current = () => dial === this.#dials && this.#state === "connecting";
      Promise.all([token, query].map(async (option) => (typeof option === "function" ? option() : option)))
        .then((answers) => current() && this.#connect(answers[0], answers[1]))
        .catch((err) => current() && this.#fail(err));
    } else {
      this.#connect();
    }
    this.#patience = connectTimeout; // until hello
    this.#after(connectTimeout, () => this.#giveUp("connect timeout"));
    this.#become("connecting");
  }

  /** @param {any} [token] @param {any} [query] */
  #connect(token, query) {
    const { WebSocket = globalThis.WebSocket } = this.#options;
    if (!WebSocket) throw new TypeError("live: no WebSocket here; give one in options.WebSocket");
    const protocols = this.#options.plain ? [] : [LIVE_V1];
    if (token) protocols.push("live.token." + base64url(token));
    const url = new URL(this.url);
    for (const pair of new URLSearchParams(query ?? "")) url.searchParams.set(...pair);
    const socket = new WebSocket(url.href, protocols);
    // An old one is not heard, but keeps its listeners: in Node, an unheard error ends the process.
    /** @type {api.SocketLike["addEventListener"]} */
    const hear = (name, fn) => socket.addEventListener(name, (event) => socket === this.#socket && fn(event));
    hear("open", () => this.#opened(socket.protocol === LIVE_V1));
    hear("message", (event) => this.#receive(event.data));
    hear("close", (event) => this.#lost(event));
    hear("error", () => {}); // close follows
    this.#socket = socket;
  }

  #redial() {
    try {
      this.#dial();
    } catch (err) {
      this.#fail(err);
    }
  }

  /** @param {unknown} err */
  #fail(err) {
    this.#giveUp(String(err));
    this.#report(err);
  }

  /** @param {string} reason */
  #giveUp(reason) {
    const hung = this.#socket;
    this.#socket = undefined;
    hung?.close();
    this.#lost({ code: ABNORMAL, reason });
  }

  /** @param {boolean} v1 */
  #opened(v1) {
    clearTimeout(this.#timer);
    this.#v1 = v1;
    this.#openedAt = this.#heardAt = Date.now();
    this.#probedAt = 0;
    this.#state = "open"; // announced below: first the server hears what it must
    this.#join(this.#wanted.values());
    for (const entry of this.#buffer) {
      this.#buffer.delete(entry);
      this.#put(entry);
    }
    if (!this.#socket) return; // closed from an option's function
    this.#look();
    this.#become("open");
    this.#emit("open");
  }

  /** @param {api.Ending} ending */
  #lost({ code, reason }) {
    const { stableAfter = 5_000 } = this.#options;
    const wasOpen = this.#state === "open";
    this.#socket = undefined;
    if (wasOpen && Date.now() - this.#openedAt >= stableAfter) {
      this.#attempt = 0;
      this.#hurried = false;
    }
    this.#settle(new LiveError("disconnected", "connection lost"));
    for (const wanted of this.#wanted.values()) wanted.state = "idle";
    if (code === 1000 || (code >= 4000 && code < 4100)) {
      this.#finish({ code, reason });
    } else {
      const retryIn = Math.round(this.#delay({ code, reason }));
      this.#attempt++;
      this.#after(retryIn, () => this.#redial());
      this.#become("waiting", { retryIn, code, reason });
    }
    if (wasOpen) this.#emit("close", { code, reason });
  }

  /** Full jitter: who fell together must not return together. @param {api.Ending} ending */
  #delay({ code, reason }) {
    const { backoff: { min = 500, max = 20_000 } = {}, random = Math.random } = this.#options;
    const named = (code === 1012 || code === 1013) && /within (\d+) ms/.exec(reason);
    const window = named ? +named[1] : this.#window;
    this.#window = 0;
    if (code >= 4200 && code < 4300 && !this.#hurried) {
      this.#hurried = true;
      return 0;
    }
    return random() * (Math.min(window, MAX_WINDOW) || Math.min(max, min * 2 ** this.#attempt));
  }

  /** @param {Partial<api.Ending>} [ending] */
  #finish(ending) {
    const socket = this.#socket;
    const unsent = this.#buffer.size;
    this.#socket = undefined;
    this.#state = "closed";
    clearTimeout(this.#timer);
    this.#awake.abort();
    this.#settle(closed());
    for (const { settle } of [...this.#buffer, ...this.#wanted.values()]) settle?.(closed());
    for (const all of [this.#buffer, this.#wanted, this.#topics]) all.clear();
    socket?.close(1000);
    this.#become("closed", { ...ending, unsent });
  }

  // A sleeping page's timers come late: these events and the wall clock do not.

  #listenForWake() {
    const wake = (/** @type {any} */ { type, persisted }) => {
      if (type === "pagehide") return persisted && this.#socket && this.#giveUp(type); // it would be deaf
      // Read now: a remembered flag is wrong once an event is lost.
      if (type !== "visibilitychange" || document.visibilityState === "visible") this.reconnect();
    };
    for (const name of ["online", "pageshow", "pagehide", "focus"]) globalThis.addEventListener?.(name, wake, this.#awake);
    for (const name of ["visibilitychange", "resume"]) globalThis.document?.addEventListener(name, wake, this.#awake);
  }

  #look(woken = false) {
    if (!this.#v1) return;
    const now = Date.now();
    const silence = now - this.#heardAt;
    const probed = this.#probedAt;
    if (silence > this.#patience || (probed && now - probed >= FRESH)) {
      this.#giveUp("no sign of life");
      if (probed) this.reconnect();
      return;
    }
    if (woken && !probed && silence > FRESH) {
      this.#probedAt = now;
      this.#tell({ op: "unsubscribe", id: ++this.#id, topic: "" }); // changes nothing, and is answered
    }
    this.#join(this.#wanted.values());
    this.#after(this.#probedAt ? FRESH : TICK, () => this.#look());
  }

  /** A closing socket loses what it is given. */
  get #ready() {
    return this.#state === "open" && this.#socket?.readyState === OPEN;
  }

  /** @param {unknown} frame */
  #tell(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  /** @type {(question: any, answer: string, options?: api.CallOptions) => Promise<any>} */
  #call(question, answer, { timeout = 10_000, signal, offline } = {}) {
    return new Promise((done, failed) => {
      const id = ++this.#id;
      let timer = 0;
      const wait = () => {
        clearTimeout(timer);
        if (timeout < Infinity) timer = setTimeout(late, timeout);
      };
      /** @type {any[]} */
      const parts = []; // a large answer has several
      const settle = (/** @type {any} */ reply) => {
        parts.push(reply);
        if (reply.more || reply.op === "part") return wait();
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        this.#buffer.delete(entry);
        this.#asked.delete(id);
        if (reply instanceof Error) return failed(reply);
        try {
          if ("text" in reply) reply.data = JSON.parse(parts.map(({ text }) => text).join(""));
          reply.messages = parts.flatMap(({ messages }) => messages ?? []);
          done(reply[answer]);
        } catch {
          failed(badMessage());
        }
      };
      const entry = { id, settle, frame: encode({ id, ...question }) };
      const abort = () => settle(new LiveError("aborted", "aborted"));
      const late = () => settle(new LiveError("timeout", `no answer within ${timeout} ms`));
      wait();
      signal?.addEventListener("abort", abort);
      try {
        if (signal?.aborted) abort();
        else this.#hand(entry, offline);
      } catch (err) {
        settle(err);
      }
    });
  }

  /** @param {any} entry @param {string} [offline] */
  #hand(entry, offline) {
    this.#refuseIfClosed();
    const { maxBuffered = 64 } = this.#options;
    const { size } = this.#buffer;
    const now = this.#ready && !size;
    if (now) this.#put(entry);
    else if (offline === "fail") throw new LiveError("offline", "not connected");
    else if (size < maxBuffered) this.#buffer.add(entry);
    else throw new LiveError("buffer_full", `${size} messages wait already`);
    return now;
  }

  /** @param {any} entry */
  #put({ frame, id, settle }) {
    if (!settle || this.#v1) {
      if (settle) this.#asked.set(id, settle);
      return this.#socket?.send(frame);
    }
    const { op, topic, data } = JSON.parse(frame);
    if (op === "publish") this.#tellPlainly(op, topic, data, settle);
    settle(op === "publish" ? {} : new LiveError("unsupported", `the plain wire has no ${op}`));
  }

  /** Asks in one frame. @param {Iterable<Wanted>} some */
  #join(some) {
    if (!this.#ready) return;
    const batch = [];
    for (const wanted of some) {
      const { topic, at: since, last, known } = wanted;
      if (wanted.state !== "idle") continue;
      wanted.state = "asked";
      if (this.#v1) {
        const id = ++this.#id;
        this.#asked.set(id, (reply) => this.#asked.delete(id) && this.#joined(wanted, reply));
        batch.push({ op: "subscribe", id, topic, since, last: since || !known ? last : undefined });
      } else {
        this.#tellPlainly("subscribe", topic);
        this.#joined(wanted, {});
      }
    }
    while (batch.length) this.#tell(batch.splice(0, MAX_BATCH));
  }

  /** @param {Wanted} wanted @param {any} reply */
  #joined(wanted, reply) {
    const { topic, at, known } = wanted;
    if (!this.#socket || this.#wanted.get(topic) !== wanted) return;
    if (reply instanceof LiveError) {
      wanted.state = "idle";
      if (reply.code !== "unavailable") this.#leave(wanted, reply); // else asked again at the next look
      return this.#report(Object.assign(reply, { topic }));
    }
    wanted.state = "on";
    wanted.known = true;
    if ((known || at) && !reply.recovered) this.#emit("gap", { topic, reason: at ? "not_recovered" : "no_history" });
    for (const message of reply.messages ?? []) {
      if (this.#wanted.get(topic) !== wanted) return;
      this.#deliver({ topic, ...message, recovered: true });
    }
    wanted.at = reply.at;
    wanted.settle();
  }

  /** @param {Wanted} wanted @param {LiveError} [why] */
  #leave(wanted, why = new LiveError("aborted", "aborted")) {
    const { topic, state, settle } = wanted;
    if (this.#wanted.get(topic) !== wanted) return;
    this.#wanted.delete(topic);
    settle(why);
    if (state === "idle" || !this.#ready) return;
    if (this.#v1) this.#tell({ op: "unsubscribe", topic });
    else this.#tellPlainly("unsubscribe", topic);
  }

  /** @type {(verb: string, topic: string, data?: unknown, failed?: Function) => void} */
  #tellPlainly(verb, topic, data, failed = this.#report) {
    const say = /** @type {any} */ (this.#options)[verb + "Message"];
    try {
      const message = say ? say(topic, data) : { topic: verb, data: { topic, data } };
      if (message) this.#socket?.send(plain(message));
    } catch (err) {
      failed(err);
    }
  }

  /** @param {any} data */
  #receive(data) {
    this.#heardAt = Date.now();
    this.#probedAt = 0;
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      // Reported below.
    }
    if (this.#v1 && frame?.op) this.#obey(frame);
    else if (typeof frame?.topic === "string") this.#deliver(frame);
    else this.#report(badMessage());
  }

  /** @param {any} frame */
  #obey(frame) {
    const { op, id, topic, ping } = frame;
    if (op === "ping") this.#tell({ op: "pong" });
    if (op === "drain") this.#window = frame.within;
    if (op === "hello") {
      this.session = frame.session;
      this.#patience = ping ? ping + PING_SLACK : Infinity;
    }
    if (op === "gap") {
      const wanted = this.#wanted.get(topic);
      if (wanted?.state === "on") wanted.at = frame.at;
      this.#emit("gap", { topic, reason: "lost" });
    }
    if (op === "reply" || op === "part" || op === "error") {
      const answer = op === "error" ? new LiveError(frame.code, frame.message ?? frame.code) : frame;
      const settle = this.#asked.get(id);
      if (settle) settle(answer);
      else if (!id) this.#report(answer);
    }
  }

  /** @param {LiveError} err */
  #settle(err) {
    for (const settle of this.#asked.values()) settle(err);
  }

  /** @param {api.Message} message */
  #deliver(message) {
    const { topic, data, at } = message;
    const wanted = this.#wanted.get(topic);
    if (at && wanted?.state === "asked") return; // of an ended one: the reply tells more
    if (at && wanted?.state === "on") wanted.at = at;
    this.#emit("message", message);
    this.#topics.call(topic, this.#report, data, message);
  }

  /** @param {string} name @param {unknown} [event] */
  #emit(name, event) {
    this.#events.call(name, this.#report, event);
  }

  #refuseIfClosed() {
    if (this.#state === "closed") throw closed();
  }

  /** @param {api.State} state @param {Partial<api.StateEvent>} [detail] */
  #become(state, detail) {
    this.#state = state;
    this.#emit("state", { state, attempt: this.#attempt, ...detail });
  }

  /** @param {number} ms @param {() => void} fn */
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

class Wanted {
  state = "idle"; // or "asked", "on"
  callers = 0;
  known = false; // was on before

  /** @param {string} topic @param {api.SubscribeOptions} options */
  constructor(topic, { since, last }) {
    this.topic = topic;
    this.at = since;
    this.last = last;
    /** @type {(err?: unknown) => void} */
    this.settle = () => {};
    this.ready = new Promise((done, failed) => {
      this.settle = (err) => (err ? failed(err) : done(undefined));
    });
    this.ready.catch(() => {}); // is reported as well
  }
}

/** Functions by name. One that fails stops no other. @extends {Map<string, any>} */
class Listeners extends Map {
  /** @param {string} name @param {Function} fn */
  add(name, fn) {
    const set = this.get(name) ?? new Set();
    const entry = { fn }; // fn may be added twice
    this.set(name, set.add(entry));
    return () => {
      if (set.delete(entry) && !set.size) this.delete(name);
    };
  }

  /** @param {string} name @param {(err: unknown) => void} failed @param {unknown[]} args */
  call(name, failed, ...args) {
    const set = this.get(name) ?? new Set();
    for (const entry of [...set]) {
      if (!set.has(entry)) continue; // it has left
      try {
        entry.fn(...args)?.then?.(undefined, failed);
      } catch (err) {
        failed(err);
      }
    }
  }

  clear() {
    for (const set of this.values()) set.clear(); // stops a call that is under way
    super.clear();
  }
}

const badMessage = () => new LiveError("bad_message", "the server sent no message");
const closed = () => new LiveError("closed", "the client is closed; connect again");

/** @param {api.Outgoing} message */
const plain = ({ topic, data = null }) => encode({ topic, data });

/** @param {any} message */
function encode(message) {
  if (typeof message.topic !== "string") throw new TypeError("live: a topic is a string");
  return JSON.stringify(message);
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
  throw new TypeError(`live: "${url}" is no http(s) or ws(s) address; give a full one`);
}

/** @param {string} text */
function base64url(text) {
  const base64 = btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  return base64.replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
}

/** @param {unknown} err */
function lastResort(err) {
  (globalThis.reportError ?? console.error)(err);
}
