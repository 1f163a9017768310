// Fakes that a test controls: time, sockets and the page.
import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { afterEach, beforeEach } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
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
    constructor(url, protocols) {
      super(url, protocols);
      sockets.push(this);
    }
  }
  const live = connect("ws://server/live", { WebSocket, random: () => 1, ...options });
  outside.clients.push(live);

  const heard = [];
  for (const name of ["state", "open", "close", "message", "gap", "error"]) {
    live.on(name, (event) => heard.push([name, event]));
  }
  return {
    live,
    sockets,
    heard,
    get socket() {
      return sockets.at(-1);
    },
    names: () => heard.map(([name, event]) => (name === "state" ? event.state : name)),
    last: (name) => heard.findLast(([n]) => n === name)?.[1],
    all: (name) => heard.filter(([n]) => n === name).map(([, event]) => event),
  };
}

/** A client whose first connection is open. The server speaks the plain wire. */
export function startOpen(outside, options) {
  const client = start(outside, options);
  client.socket.accept();
  client.heard.length = 0;
  return client;
}

/** The same with a server that speaks live.v1, and pings every 25 s. */
export function startV1(outside, options) {
  const client = start(outside, options);
  client.socket.greet();
  client.heard.length = 0;
  return client;
}

/** Lets the connection break, and opens the next one. */
export function reconnect(outside, client, end = () => client.socket.end()) {
  end();
  outside.clock.advance(client.live.retryIn ?? 0);
  client.socket.greet();
}

/** Lets promises settle. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Runs the garbage collector until a condition holds. One run may not collect everything. */
export async function collectGarbage(seen = () => true) {
  setFlagsFromString("--expose-gc");
  for (let i = 0; i < 100; i++) {
    await settled();
    runInNewContext("gc")();
    if (seen()) return;
  }
}

/** Waits until a condition holds. For tests with real sockets. */
export async function until(condition, pause = (next) => setTimeout(next, 1)) {
  const deadline = Date.now() + 15_000; // ms; less than the limit of a test
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${condition}`);
    await new Promise(pause);
  }
}

/** The code of the error that a promise rejects with. */
export const codeOf = (promise) => promise.then(() => "none", (err) => err.code);

const uids = new Set();

/** Returns frames without the uids of publications, and checks that each publication has one of its own. */
export function withoutUids(frames) {
  return frames.map(({ uid, ...frame }) => {
    assert.equal(uid !== undefined, frame.op === "publish", "publications have a uid, and nothing else has");
    if (uid) assert.ok(typeof uid === "string" && uid.length <= 64 && !uids.has(uid), `the uid ${uid}`);
    uids.add(uid);
    return frame;
  });
}

export class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;
  protocol = "";
  sent = []; // parsed
  texts = []; // not parsed
  closedWith = undefined;
  #listeners = [];

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  addEventListener(type, fn) {
    this.#listeners.push({ type, fn });
  }

  send(frame) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.readyState === 1) this.texts.push(frame);
    if (this.readyState === 1) this.sent.push(JSON.parse(frame)); // frames after the end are lost silently, as in browsers
  }

  close(...args) {
    this.closedWith = args;
    this.readyState = 2;
  }

  // What the network does:

  accept(protocol = "") {
    this.protocol = protocol;
    this.readyState = 1;
    this.#dispatch("open", {});
  }

  /** Accepts, as a server does that speaks live.v1. */
  greet(ping = 25_000, more = {}) {
    this.accept("live.v1");
    this.sayFrame({ op: "hello", version: 1, session: "s1", ping, ...more });
  }

  /** Returns the frames that the client has sent since the last call. Batches are taken apart. */
  heard() {
    return this.sent.splice(0).flat();
  }

  /** Answers the sent operation with this name and topic. */
  reply(op, topic, answer = {}) {
    this.sayFrame({ op: "reply", id: this.#idOf(op, topic), ...answer });
  }

  refuse(op, topic, code, message = "not allowed") {
    this.sayFrame({ op: "error", id: this.#idOf(op, topic), code, message });
  }

  #idOf(op, topic) {
    const found = this.sent.flat().findLast((frame) => frame.op === op && frame.topic === topic);
    if (!found) throw new Error(`no ${op} of ${topic} in ${JSON.stringify(this.sent)}`);
    return found.id;
  }

  say(topic, data, at) {
    this.sayFrame({ topic, data, at });
  }

  sayFrame(frame) {
    this.sayRaw(JSON.stringify(frame));
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

/** The two clocks of a page, and its timers, which follow the steady one. */
class FakeClock {
  now = 1_000_000; // the clock that a user can set
  steady = 0;
  #timers = new Map();
  #ids = 0;
  #real = {};

  install() {
    const { setTimeout, clearTimeout, performance } = globalThis;
    this.#real = { setTimeout, clearTimeout, performance, now: Date.now };
    globalThis.setTimeout = (fn, ms = 0) => {
      if (!(ms >= 0)) throw new RangeError(`a timer of ${ms} ms`);
      const wait = ms > 2 ** 31 - 1 ? 1 : ms; // as in browsers
      this.#timers.set(++this.#ids, { at: this.steady + wait, fn });
      return this.#ids;
    };
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    globalThis.performance = { now: () => this.steady };
    Date.now = () => this.now;
  }

  restore() {
    const { now, ...others } = this.#real;
    Object.assign(globalThis, others);
    Date.now = now;
  }

  get timers() {
    return this.#timers.size;
  }

  /** Lets time pass, and each timer run at its moment. */
  advance(ms) {
    const end = this.steady + ms;
    for (;;) {
      const [id, next] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!next || next.at > end) break;
      this.#timers.delete(id);
      this.stall(Math.max(0, next.at - this.steady));
      next.fn();
    }
    this.stall(Math.max(0, end - this.steady));
  }

  /** Lets time pass without any timer running: a page that is frozen, or whose timers are throttled. */
  stall(ms) {
    this.steady += ms;
    this.now += ms;
  }

  /** Lets time pass while the machine sleeps, and its steady clock with it. */
  sleep(ms) {
    this.now += ms;
  }

  /** Sets the user's clock forward or back. */
  set(ms) {
    this.now += ms;
  }
}

/** The events that a page hears at its document. It hears the others at its window. */
export const DOCUMENT_EVENTS = ["visibilitychange", "resume"];

class FakePage {
  window = new EventTarget();
  document = Object.assign(new EventTarget(), { hidden: false });

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
    const target = DOCUMENT_EVENTS.includes(name) ? this.document : this.window;
    target.dispatchEvent(new Event(name));
  }
}
