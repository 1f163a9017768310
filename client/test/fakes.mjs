// What the client touches of the outside, in a form that a test can move by hand: time, sockets and the page.
import { setMaxListeners } from "node:events";
import { afterEach, beforeEach } from "node:test";
import { connect } from "../live.js";

/** Sets up a fake clock and page around each test of the file. */
export function setUp() {
  const outside = { clock: null, page: null, clients: [] };
  beforeEach(() => {
    outside.clock = new FakeClock();
    outside.page = new FakePage();
    outside.clock.install();
    outside.page.install();
  });
  afterEach(() => {
    for (const live of outside.clients.splice(0)) live.close();
    outside.clock.restore();
    outside.page.restore();
  });
  return outside;
}

/**
 * A client over fake sockets. `random` is 1 unless given, so that a delay is its upper limit.
 * Every event is noted in `heard` as [name, event].
 */
export function start(outside, options = {}) {
  const sockets = [];
  class WebSocket extends FakeSocket {
    constructor(url) {
      super(url);
      sockets.push(this);
    }
  }
  const live = connect("ws://server/live", { WebSocket, random: () => 1, ...options });
  outside.clients.push(live);

  const heard = [];
  for (const name of ["state", "open", "close", "message", "error"]) live.on(name, (event) => heard.push([name, event]));
  return {
    live,
    sockets,
    heard,
    get socket() {
      return sockets.at(-1);
    },
    names: () => heard.map(([name, event]) => (name === "state" ? event.state : name)),
    last: (name) => heard.findLast(([n]) => n === name)?.[1],
  };
}

/** A client whose first connection stands. */
export function startOpen(outside, options) {
  const client = start(outside, options);
  client.socket.accept();
  client.heard.length = 0;
  return client;
}

export class FakeSocket {
  readyState = 0;
  sent = [];
  closedWith = undefined;
  #listeners = [];

  constructor(url) {
    this.url = url;
  }

  addEventListener(type, fn) {
    this.#listeners.push({ type, fn });
  }

  send(frame) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.readyState === 1) this.sent.push(JSON.parse(frame)); // later ones are lost silently, as in browsers
  }

  close(...args) {
    this.closedWith = args;
    this.readyState = 2;
  }

  // What the network does:

  accept() {
    this.readyState = 1;
    this.#dispatch("open", {});
  }

  say(topic, data) {
    this.sayRaw(JSON.stringify({ topic, data }));
  }

  sayRaw(data) {
    this.#dispatch("message", { data });
  }

  end(code = 1006, reason = "") {
    this.readyState = 3;
    if (code === 1006) this.#dispatch("error", {});
    this.#dispatch("close", { code, reason });
  }

  #dispatch(type, event) {
    for (const listener of this.#listeners) if (listener.type === type) listener.fn(event);
  }
}

class FakeClock {
  now = 1_000_000;
  #timers = new Map();
  #ids = 0;
  #real = {};

  install() {
    this.#real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, now: Date.now };
    globalThis.setTimeout = (fn, ms) => {
      this.#timers.set(++this.#ids, { at: this.now + ms, fn });
      return this.#ids;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    Date.now = () => this.now;
  }

  restore() {
    globalThis.setTimeout = this.#real.setTimeout;
    globalThis.clearTimeout = this.#real.clearTimeout;
    Date.now = this.#real.now;
  }

  get timers() {
    return this.#timers.size;
  }

  /** Lets time pass, and each timer run at its moment. */
  advance(ms) {
    const end = this.now + ms;
    for (;;) {
      const [id, next] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!next || next.at > end) break;
      this.#timers.delete(id);
      this.now = Math.max(this.now, next.at);
      next.fn();
    }
    this.now = end;
  }

  /** Lets time pass while the machine sleeps: no timer runs. */
  sleep(ms) {
    this.now += ms;
  }
}

class FakePage {
  window = new EventTarget();
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });

  install() {
    setMaxListeners(0, this.window, this.document); // a test may have a thousand clients
    globalThis.addEventListener = this.window.addEventListener.bind(this.window);
    globalThis.document = this.document;
  }

  restore() {
    delete globalThis.addEventListener;
    delete globalThis.document;
  }

  fire(name) {
    const target = name === "visibilitychange" ? this.document : this.window;
    target.dispatchEvent(new Event(name));
  }
}
