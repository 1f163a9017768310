// Live topics; see live.d.ts.

/** @import * as api from "./live.d.ts" */

const LIVE_V1 = "live.v1";
const MAX_BATCH = 1000;
const SLOW = 50; // bytes per ms

const MAX_WINDOW = 60_000;
const PING_SLACK = 10_000; // of a late ping
const TICK = 5_000; // between checks
const FRESH = 2_000; // a connection heard this recently is alive

/** @type {typeof api.connect} */
export const connect = (url, options) => new LiveClient(url, options);

/** @implements {api.LiveError} */
export class LiveError extends Error {
  name = "LiveError";
  topic;

  constructor(code, text) {
    super("live: " + text);
    this.code = code;
  }
}

/** @implements {api.LiveClient<any>} */
export class LiveClient {
  #options;
  #topics = new Listeners();
  #events = new Listeners();

  #wanted = new Map();
  #infos = new Map(); // of this page, by topic; next: the server may not have it yet
  #buffer = new Set(); // waits for a connection
  #asked = new Map(); // waits for an answer
  #id = 0;

  /** @type {api.State} */
  #state = "connecting";

  #socket; // others are not heard
  #timer;
  #wait = 0;
  #due = 0;

  #largest = Infinity; // bytes in a frame
  #openedAt = 0;
  #heardAt = 0;
  #skew = 0;

  #patience = Infinity;
  #silence = 0;
  #probed = -Infinity; // ms since an unanswered ping
  #backlog = 0; // ms that a slow connection needs for the frames we wrote

  #unsent = 0; // bufferedAmount at the last check
  #longest = 0; // bytes in a frame

  #window = 0;
  #attempt = 0;
  #wokenAt = -Infinity;
  #awake = new AbortController(); // ends the listeners
  #headAnswered = false;
  #end = "";

  constructor(url, options) {
    const { signal, plain, token, backoff } = (this.#options = present({ ...options }));
    const { min, max = 20_000 } = (this.#options.backoff = present({ ...backoff }));
    if (min > max) throw new TypeError("live: backoff has min > max");
    if (plain && token) throw new TypeError("live: the plain wire has no token");
    this.url = resolve(url ?? "/live");
    if (signal?.aborted) this.#finish();
    else this.#dial();
    const wake = (/** @type {any} */ { type, persisted }) => {
      if (type === "pagehide") return persisted && this.#state !== "waiting" && this.#giveUp(type); // a cached page hears nothing
      if (type !== "visibilitychange" || !document.hidden) this.#wake();
    };
    for (const name of ["online", "pageshow", "pagehide", "focus"]) globalThis.addEventListener?.(name, wake, this.#awake);
    for (const name of ["visibilitychange", "resume"]) globalThis.document?.addEventListener(name, wake, this.#awake);
    signal?.addEventListener("abort", () => this.close(), this.#awake);
  }

  get state() {
    return this.#state;
  }

  get retryIn() {
    return this.#state === "waiting" ? Math.max(0, Math.min(this.#wait, this.#due - Date.now())) : undefined;
  }

  on(name, fn) {
    return this.#events.add(name, fn);
  }

  listen(topic, fn) {
    this.#refuseIfClosed();
    return this.#topics.add(wellFormed(topic), fn);
  }

  subscribe(topic, fn, options) {
    const { signal, onEnd, onGap, onState, since, last, info, unseen, onPresence, onJoin, onLeave, onChange } = present({ ...options });
    if (this.#options.plain && (since || last || onState)) throw new TypeError("live: the plain wire has no since, last, onState");
    // Messages before the answer are for an older subscription.
    const hear = (data, message) => {
      const { known = true, state } = this.#wanted.get(topic) ?? {};
      return (message.at && (!known || (onState && state === "asked"))) || fn(data, message);
    };
    const ends = [this.listen(topic, hear), this.on("finish", () => stop())];
    const told = { gap: onGap && ((gap, replaced) => (replaced && onState) || onGap(gap)), end: onEnd, state: onState, presence: onPresence, join: onJoin, leave: onLeave, change: onChange };
    for (const name in told) if (told[name]) ends.push(this.#events.add(`${name} ${topic}`, told[name]));
    const wanted = this.#wanted.get(topic) ?? new Wanted(topic, since, last, unseen);
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
    else this.#enter(wanted, info, onState);
    if (onPresence && wanted.count >= 0) queueMicrotask(() => ends.length && this.#emit("presence " + topic, wanted));
    return Object.assign(stop, { ready: wanted.ready, [Symbol.dispose]: stop });
  }

  #enter(wanted, info, onState) {
    const { topic, state } = wanted;
    if (info === undefined) ignore();
    else if (state === "idle") {
      this.#forget(topic); // this info is newer than what waits
      this.#infos.set(topic, { info });
    } else this.#show(topic, info);
    if (onState) this.#renew(wanted);
    this.#join([wanted]);
  }

  keys(topic) {
    return this.presence(topic).keys;
  }

  presence(topic) {
    return this.#wanted.get(topic) ?? new Wanted(topic);
  }

  setPresence(topic, info, options) {
    const own = this.#infos.get(topic) ?? {};
    const next = (own.next = info ?? null);
    this.#infos.set(topic, own);
    const settled = (/** @type {any} */ answer) => {
      if (own.next === next && !/^(timeout|disconnected)$/.test(answer?.code)) own.next = undefined;
      if (answer instanceof Error) throw answer;
      own.info = next;
      if (this.#infos.get(topic) === own) this.presence(topic).unseen = false;
      return answer;
    };
    return this.#call({ op: "present", topic, info }, "member", options).then(settled, settled);
  }

  /** A lost connection is no error: the next one tries again. */
  #show(topic, info) {
    this.setPresence(topic, info).catch((err) => this.#socket && this.#report(err));
  }

  clearPresence(topic, options) {
    this.#infos.delete(topic);
    this.presence(topic).unseen = true;
    return this.#call({ op: "absent", topic }, "", options);
  }

  publish(topic, data, options) {
    const uid = options?.uid ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
    return this.#call({ op: "publish", topic, data: data ?? null, uid }, "at", options);
  }

  request(topic, data, options) {
    return this.#call({ op: "request", topic, data: data ?? null }, "data", options);
  }

  history(topic, limit, options) {
    return this.#call({ op: "history", topic, limit: limit ?? 100 }, "messages", options);
  }

  send(topic, data) {
    return this.#hand({ frame: plain({ topic, data }) });
  }

  reconnect() {
    this.#refuseIfClosed();
    this.#wake(true);
  }

  close() {
    if (this.#end) return;
    this.#finish();
    this.#events.clear();
  }

  [Symbol.dispose]() {
    this.close();
  }

  #dial() {
    const { token, query, connectTimeout = 10_000 } = this.#options;
    const given = [token, query, this.#attempt % 8 > 1 && this.#isDown()];
    const direct = !given[2] && given.every((option) => typeof option !== "function");
    this.#window = 0;
    if (direct) this.#connect(given);
    this.#after(connectTimeout, () => this.#giveUp("connect timeout"));
    const timer = this.#timer;
    this.#become("connecting"); // an option's function may call reconnect()
    if (direct) return;
    const current = () => this.#timer === timer;
    Promise.all(given.map(async (option) => (typeof option === "function" ? option() : option)))
      .then((answers) => current() && (answers[2] && this.#headAnswered ? this.#giveUp("no answer") : this.#connect(answers)))
      .catch((err) => current() && this.#fail(err));
  }

  /** Firefox delays dials after failures, but not a fetch. A policy may forbid it. */
  #isDown() {
    if (!/Firefox/.test(globalThis.navigator?.userAgent)) return;
    const signal = AbortSignal.timeout(Math.min(FRESH, this.#options.connectTimeout >>> 1 || FRESH));
    return fetch(this.url.replace("ws", "http"), { method: "HEAD", mode: "no-cors", signal }).then(
      ({ status }) => status > 499 || !(this.#headAnswered = true), // 5xx: a proxy
      ({ name }) => name !== "TimeoutError",
    );
  }

  #connect(given) {
    const { WebSocket = globalThis.WebSocket } = this.#options;
    const [token, query] = given;
    if (!WebSocket) throw new TypeError("live: no WebSocket; give one in options.WebSocket");
    const protocols = this.#options.plain ? [] : [LIVE_V1];
    if ((token ?? "") !== "") protocols.push("live.token." + base64url(wellFormed(token)));
    const socket = new WebSocket(withQuery(this.url, query ?? ""), protocols);
    // Old sockets keep their listeners: an unheard error ends Node.
    const hear = (name, fn) => socket.addEventListener(name, (event) => socket === this.#socket && fn(event));
    hear("open", () => this.#v1 || this.#opened()); // live.v1 opens at hello
    hear("message", (event) => this.#receive(event.data));
    hear("close", (event) => this.#lost(event));
    hear("error", ignore);
    this.#socket = socket;
    this.#patience = this.#largest = Infinity;
    this.#backlog = this.#unsent = this.#longest = 0;
  }

  #redial() {
    try {
      this.#dial();
    } catch (err) {
      this.#fail(err);
    }
  }

  #fail(err) {
    this.#giveUp(String(err));
    this.#report(err);
  }

  #giveUp(reason) {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    this.#lost({ code: 1006, reason });
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#openedAt = now();
    this.#skew = Date.now() - now();
    this.#state = "open"; // The server gets the subscriptions before the page hears of it.
    this.#join(this.#wanted.values());
    for (const entry of this.#buffer) {
      this.#buffer.delete(entry);
      try {
        this.#put(entry);
      } catch (err) {
        (entry.settle ?? this.#report)(err);
      }
    }
    if (!this.#socket) return; // an option's function closed it
    for (const [topic, { info, next = this.#wanted.has(topic) ? undefined : info }] of this.#infos) {
      if (next !== undefined) this.#show(topic, next);
    }
    if (this.#v1) this.#checkLater();
    if (!this.#headAnswered) this.#isDown();
    this.#become("open");
    this.#emit("open");
  }

  #lost({ code, reason }) {
    const { backoff, random = Math.random, stableAfter = 5_000, maxBuffered = 64 } = this.#options;
    const { min = 500, max = 20_000 } = backoff;
    const ending = code + reason;
    const wasOpen = this.#state === "open";
    this.#socket = undefined;
    if (wasOpen && now() - this.#openedAt >= stableAfter) this.#attempt = 0;
    const final = /^40|^1000[^]/.test(ending); // a proxy gives no reason
    const fault = /^10(0[2789]|11)/.test(ending); // perhaps of what we sent
    const again = [...this.#asked.values()].filter((asked) => asked?.uid && !final && !fault);
    this.#buffer = new Set([...again.slice(0, maxBuffered - this.#buffer.size), ...this.#buffer]);
    this.#settle("disconnected", "connection lost");
    for (const wanted of this.#wanted.values()) wanted.lose();
    if (final) {
      this.#finish({ code, reason });
    } else {
      const [, within = this.#window] = /^101[23][^]*within (\d+) ms/.exec(ending) ?? [];
      const expired = !this.#attempt && /^42/.test(ending);
      this.#window = expired ? 1_000 : Math.min(+within, MAX_WINDOW);
      const bound = this.#window > 0 ? this.#window : Math.min(max, min * 2 ** this.#attempt);
      const retryIn = this.#after(Math.round(random() * bound), () => this.#redial());
      this.#attempt++;
      this.#become("waiting", { retryIn, code, reason });
    }
    if (wasOpen) this.#emit("close", { code, reason });
  }

  #finish(ending) {
    const socket = this.#socket;
    const unsent = this.#buffer.size;
    this.#socket = undefined;
    this.#end = `closed ${ending ? `by the server with ${ending.code} ${ending.reason}` : "here"}; connect again`;
    this.#timer = clearTimeout(this.#timer);
    this.#awake.abort();
    this.#settle("closed", this.#end);
    for (const { settle } of this.#buffer) settle?.(new LiveError("closed", this.#end));
    this.#buffer.clear();
    for (const wanted of this.#wanted.values()) this.#leave(wanted, new LiveError("closed", this.#end));
    this.#topics.clear();
    this.#emit("finish"); // ends the subscriptions
    socket?.close(1000);
    this.#become("closed", { ...ending, unsent });
  }

  /** Events dial once a second at most; reconnect() is not limited. */
  #wake(asked) {
    if (this.#state === "open") this.#probe(FRESH);
    if (this.#state === "connecting" && Date.now() >= this.#due) this.#giveUp("connect timeout");
    if (this.#state !== "waiting") return;
    const due = asked || Date.now() > this.#due; // timers may stop in sleep
    const wait = due ? 0 : Math.max(0, this.#wokenAt + 1_000 - now());
    if (wait > (this.retryIn ?? 0) || (this.#window > 0 && !due)) return;
    this.#wokenAt = now() + wait;
    if (wait) this.#after(wait, () => this.#redial());
    else this.#redial();
  }

  #probe(bound) {
    const skew = Date.now() - now();
    const jumped = skew - this.#skew > FRESH; // the clock was set, or the machine slept
    this.#skew = skew;
    if (!this.#v1 || !(jumped || (this.#probed < 0 && now() - this.#heardAt > bound))) return;
    this.#probed = 0;
    this.#write('{"op":"ping"}');
    this.#checkLater();
  }

  #checkLater() {
    this.#after(this.#probed < 0 ? TICK : 1_000, () => this.#check());
  }

  /** Adds up timer intervals, because clocks jump. */
  #check() {
    const unsent = this.#socket.bufferedAmount ?? 0;
    this.#silence = unsent < this.#unsent ? 0 : this.#silence + this.#wait;
    this.#unsent = unsent;
    this.#backlog -= this.#wait;
    this.#probed += this.#wait;
    // The pong may wait behind these.
    const busy = unsent || this.#asked.size || this.#backlog > 0;
    if (this.#silence > this.#patience || (!busy && this.#probed > 1_000 + this.#longest / SLOW)) {
      const woken = this.#probed >= 0;
      this.#giveUp("no sign of life");
      if (woken) this.#wake();
    } else {
      this.#checkLater();
      this.#probe(this.#patience + 2 * TICK); // timers were late
    }
  }

  get #v1() {
    return this.#socket?.protocol === LIVE_V1;
  }

  /** A closing socket loses messages. */
  get #ready() {
    return this.#state === "open" && this.#socket?.readyState === 1;
  }

  #write(text) {
    this.#backlog = Math.max(0, this.#backlog) + size(text) / SLOW;
    this.#socket?.send(text);
  }

  #call(question, answer, options) {
    const { timeout = 10_000, signal, offline } = present({ ...options });
    const { op, topic } = question;
    return new Promise((done, failed) => {
      const id = ++this.#id;
      let timer = 0;
      const wait = () => {
        clearTimeout(timer);
        if (!(timeout >= 2 ** 31)) timer = setTimeout(() => settle(new LiveError("timeout", `no answer within ${timeout} ms`)), timeout);
      };
      const settle = (reply) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        this.#buffer.delete(entry);
        if (this.#asked.has(id)) this.#asked.set(id, undefined); // its answer is still due
        if (reply instanceof Error) failed(Object.assign(reply, { topic, sent: entry.sent }));
        else done(reply[answer]);
      };
      const entry = { id, op, topic, frame: encode({ id, ...question }), settle, wait, parts: [], sent: false, uid: offline !== "fail" && question.uid };
      const abort = () => settle(new LiveError("aborted", "aborted"));
      wait();
      signal?.addEventListener("abort", abort);
      try {
        if (signal?.aborted) abort();
        else if (this.#options.plain && op !== "publish") throw unsupported(op);
        else this.#hand(entry, offline);
      } catch (err) {
        settle(err);
      }
    });
  }

  #hand(entry, offline) {
    this.#refuseIfClosed();
    const { maxBuffered = 64, maxUnsent = 2 ** 20 } = this.#options;
    const waiting = this.#buffer.size;
    const direct = this.#ready && !waiting;
    if (direct) this.#put(entry, maxUnsent);
    else if (offline === "fail") throw new LiveError("offline", "not connected");
    else if (waiting < maxBuffered) this.#buffer.add(entry);
    else throw new LiveError("buffer_full", `${waiting} messages wait already`);
    return direct;
  }

  #put(entry, maxUnsent = Infinity) {
    const { frame, id, settle } = entry;
    const unsent = this.#socket?.bufferedAmount;
    const length = size(frame);
    if (length > this.#largest) throw new LiveError("too_big", `${length} bytes; at most ${this.#largest}`);
    if (unsent && unsent + length > maxUnsent) throw new LiveError("buffer_full", `${unsent} bytes wait already`);
    if (!settle || this.#v1) {
      // Servers forget a uid after 120 s.
      if (Date.now() - (entry.begun ??= Date.now()) > 100_000) throw new LiveError("disconnected", "connection lost");
      entry.sent = true;
      if (settle) this.#asked.set(id, entry);
      return this.#write(frame);
    }
    const { op, topic, data } = JSON.parse(frame);
    if (op !== "publish") throw unsupported(op);
    this.#tellPlainly(op, topic, data, settle);
    settle({});
  }

  #join(some) {
    if (!this.#ready) return;
    const batch = [];
    for (const wanted of some) {
      const { topic, at: since, last, known } = wanted;
      if (wanted.state !== "idle") continue;
      wanted.state = "asked";
      clearTimeout(wanted.timer);
      if (this.#v1) {
        const id = ++this.#id;
        this.#asked.set(id, { settle: (reply) => this.#joined(wanted, reply), parts: [] });
        const info = this.#infos.get(topic)?.info;
        batch.push({ op: "subscribe", id, topic, since, last: since || !known ? last : undefined, info, unseen: wanted.unseen });
      } else {
        this.#tellPlainly("subscribe", topic);
        this.#joined(wanted, { op: "reply", messages: [] });
      }
    }
    while (batch.length) this.#tellAll(batch.splice(0, MAX_BATCH));
  }

  #tellAll(batch) {
    try {
      this.#put({ frame: JSON.stringify(batch) });
    } catch (err) {
      if (!batch[1]) return this.#answer(batch[0].id, err);
      this.#tellAll(batch.splice(0, batch.length / 2));
      this.#tellAll(batch);
    }
  }

  #joined(wanted, reply) {
    const { topic, missed } = wanted;
    const hasState = reply.state !== undefined;
    if (!this.#socket || this.#wanted.get(topic) !== wanted) return;
    if (!reply.op) {
      const { random = Math.random } = this.#options;
      reply.topic = topic;
      wanted.lose();
      if (/^(unavailable|internal)$/.test(reply.code)) {
        const bound = Math.min(20_000, 1_000 * 2 ** wanted.failures++);
        wanted.timer = setTimeout(() => this.#join([wanted]), (bound * (1 + random())) / 2);
      } else {
        this.#leave(wanted, reply);
      }
      return this.#report(reply);
    }
    wanted.state = "on";
    wanted.known = true;
    wanted.failures = 0;
    wanted.keyed = reply.keyed;
    wanted.missed = "";
    if (!reply.recovered) wanted.hasState = hasState;
    if (reply.keyed) reply.recovered || this.#forgetKeys(wanted);
    else if (missed === "lost" ? !hasState : missed && !reply.recovered) this.#miss(topic, missed, hasState);
    if (hasState) this.#emit("state " + topic, reply.state, reply.at);
    for (const message of reply.messages) {
      if (this.#wanted.get(topic) !== wanted) return;
      this.#deliver({ topic, ...message, recovered: true });
    }
    if (wanted.state === "on") wanted.at = reply.at;
    wanted.settle();
  }

  /** All keys follow: those that are gone meanwhile must not stay. */
  #forgetKeys(wanted) {
    const { topic, keys } = wanted;
    wanted.at = undefined; // until all have come
    for (const key of keys.keys()) this.#deliver({ topic, key, removed: true });
  }

  /** Callers with onState get a state instead. */
  #miss(topic, reason, hasState) {
    const gap = { topic, reason };
    const replaced = hasState && this.#events.has("state " + topic);
    if (!replaced) this.#emit("gap", gap);
    this.#emit("gap " + topic, gap, replaced);
    return replaced;
  }

  /** Asks for the state of a topic. */
  #renew(wanted) {
    if (wanted.state !== "on" || !wanted.hasState) return;
    wanted.missed = "lost";
    wanted.state = "idle";
    wanted.at = undefined;
    this.#join([wanted]);
  }

  /** Forgets what the page has said of its presence, also what still waits. */
  #forget(topic) {
    this.#infos.delete(topic);
    for (const entry of this.#buffer) {
      if (entry.topic === topic && /sent$/.test(entry.op)) entry.settle(entry.op === "absent" ? entry : new LiveError("aborted", "aborted"));
    }
  }

  #leave(wanted, why = new LiveError("aborted", "aborted")) {
    const { topic, state, known, settle } = wanted;
    if (this.#wanted.get(topic) !== wanted) return;
    this.#wanted.delete(topic);
    this.#forget(topic);
    settle(why);
    this.#emit("end " + topic, why);
    if ((state === "idle" && !known) || !this.#ready) return;
    if (this.#v1) this.#write(JSON.stringify({ op: "unsubscribe", topic }));
    else this.#tellPlainly("unsubscribe", topic);
  }

  #tellPlainly(verb, topic, data, failed = this.#report) {
    const say = this.#options[verb + "Message"];
    try {
      const message = say ? say(topic, data) : { topic: verb, data: { topic, data } };
      if (message) this.#write(plain(message));
    } catch (err) {
      failed(err);
    }
  }

  #receive(data) {
    this.#heardAt = now();
    this.#silence = 0;
    this.#probed = -Infinity;
    this.#longest = Math.max(this.#longest, size(data));
    let frame;
    try {
      frame = present(JSON.parse(data));
      if (this.#v1 && frame.op) this.#obey(frame);
      else if (typeof frame.topic === "string") this.#deliver(frame);
      else throw frame;
    } catch {
      this.#answer(frame?.op && frame.id, new LiveError("bad_message", "the server sent a bad message"));
    }
    if (this.#state === "connecting" && this.#socket?.readyState === 1) this.#opened();
  }

  #obey(frame) {
    const { op, id, topic, at, ping, code = "internal", message = code } = frame;
    frame.more ||= op === "part";
    if (op === "ping") this.#write('{"op":"pong"}');
    if (op === "drain") this.#window = +frame.within;
    if (op === "hello") {
      this.session = frame.session;
      this.#patience = ping ? +ping + PING_SLACK : Infinity;
      this.#largest = +frame.largest || Infinity;
    }
    if (op === "gap") {
      const wanted = this.#wanted.get(topic);
      if (at && wanted?.state === "on") wanted.at = at;
      if (wanted?.keyed) this.#forgetKeys(wanted);
      else this.#miss(topic, "lost", wanted?.hasState) && this.#renew(wanted);
    }
    if (op === "presence") this.#attend(frame);
    if (op === "reply" || op === "part") this.#answer(id, frame);
    if (op === "error") this.#answer(id, Object.assign(new LiveError(code, message), { topic }));
  }

  /** Tells what changed, once a state is complete. */
  #attend({ topic, members, continued, more, joined = [], changed = [], left = [], count }) {
    const wanted = this.#wanted.get(topic);
    const begins = count >= 0 || (members && !continued);
    if (!wanted || !(begins || wanted.coming || wanted.count >= 0)) return; // for an older subscription
    if (begins) wanted.coming = new Map();
    const next = wanted.coming ?? new Map(wanted.members);
    for (const member of [...(members ?? []), ...joined, ...changed]) next.set(member.id, member);
    for (const id of left) next.delete(id);
    if (wanted.coming && count === undefined && (!members || more)) return;
    const { members: was, count: before } = wanted;
    wanted.coming = undefined;
    wanted.members = next;
    wanted.count = count ?? next.size;
    if (before === was.size && !count) {
      for (const [id, member] of was) next.has(id) || this.#emit("leave " + topic, member);
      for (const [id, member] of next) {
        const old = was.get(id);
        if (!old) this.#emit("join " + topic, member);
        else if (infos(old) !== infos(member)) this.#emit("change " + topic, member, old);
      }
    }
    this.#emit("presence " + topic, wanted);
  }

  /** The last part of an answer gets all text and messages. */
  #answer(id, answer) {
    const asked = this.#asked.get(id);
    if (!id && !answer.op) this.#report(answer);
    asked?.parts.push(answer);
    if (answer.more) return asked?.wait?.();
    if (asked && answer.op) {
      const text = asked.parts.map((part) => part.text).join("");
      if (text) answer.data = answer.state = JSON.parse(text);
      answer.messages = asked.parts.flatMap((part) => [...(part.messages ?? [])]).map(present);
    }
    this.#asked.delete(id);
    asked?.settle(answer);
  }

  /** Ends what waits for an answer, but not what waits to be sent again. */
  #settle(code, text) {
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const entry of asked) if (!this.#buffer.has(entry)) entry?.settle(new LiveError(code, text));
  }

  #deliver(message) {
    const { topic, data, at, key, removed } = message;
    const wanted = this.#wanted.get(topic);
    if (at && wanted?.state === "on") wanted.at = at;
    else if (at && (wanted?.at || (wanted?.last && !wanted.known))) return; // the answer will bring it
    if (removed) wanted?.keys.delete(key);
    else if (key) wanted?.keys.set(key, data);
    this.#emit("message", message);
    this.#topics.call(topic, this.#report, data, message);
  }

  #emit(name, ...args) {
    this.#events.call(name, this.#report, ...args);
  }

  #refuseIfClosed() {
    if (this.#end) throw new LiveError("closed", this.#end);
  }

  #become(state, detail) {
    this.#state = state;
    this.#emit("state", { state, attempt: this.#attempt, ...detail });
  }

  #after(ms, fn) {
    clearTimeout(this.#timer);
    this.#wait = ms >= 0 ? Math.min(ms, 2 ** 31 - 1) : TICK; // an option may be NaN
    this.#due = Date.now() + this.#wait;
    this.#timer = setTimeout(fn, this.#wait);
    return this.#wait;
  }

  #report = (err) => {
    if (this.#events.has("error")) this.#events.call("error", lastResort, err);
    else lastResort(err);
  };
}

class Wanted {
  state = "idle"; // or "asked", "on"
  callers = 0;
  known = false; // was on before
  missed; // why there is a gap, unless the next answer fills it
  failures = 0;
  keyed; // the topic is a table
  hasState = true; // until the server tells
  keys = new Map(); // the newest value of each
  members = new Map(); // who is present
  count; // of members, listed or not; undefined: not told yet
  coming; // the members of a state that is not complete yet
  timer;
  settle;

  constructor(topic, at, last, unseen) {
    this.topic = topic;
    this.at = at;
    this.missed = at && "not_recovered";
    this.last = last;
    this.unseen = unseen;
    this.ready = new Promise((done, failed) => {
      this.settle = (err) => {
        clearTimeout(this.timer);
        if (err) failed(err);
        else done(undefined);
      };
    });
    this.ready.catch(ignore); // refusals are events, too
  }

  /** The server no longer has it. */
  lose() {
    this.state = "idle";
    if (this.known) this.missed = this.at ? "not_recovered" : "no_history";
  }
}

/** A listener that throws does not stop the others. */
class Listeners extends Map {
  add(name, fn) {
    const set = this.get(name) ?? new Set();
    const entry = { fn }; // fn may be added twice
    this.set(name, set.add(entry));
    return () => {
      if (set.delete(entry) && !set.size) this.delete(name);
    };
  }

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
    for (const set of this.values()) set.clear();
    super.clear();
  }
}

const ignore = () => {};
const lastResort = (err) => (globalThis.reportError ?? console.error)(err);
const unsupported = (op) => new LiveError("unsupported", `the plain wire has no ${op}`);

/** A clock that nobody can set. It may stop in sleep. */
const now = () => performance.now();

function present(object) {
  for (const name in object) if (object[name] === null && !/data|state/.test(name)) delete object[name];
  return object;
}

/** Sessions have no order. */
const infos = ({ sessions }) => String(sessions.map((info) => JSON.stringify(info)).sort());

const encoded = (text) => new TextEncoder().encode(text);
const size = (text) => encoded(text).length;
const plain = ({ topic, data = null }) => encode({ topic, data });

function encode(message) {
  wellFormed(message.topic);
  return JSON.stringify(message, (_, value) => {
    if (/number|function|symbol/.test(typeof value) && !Number.isFinite(value)) throw new TypeError(`live: JSON has no ${String(value)}`);
    return value;
  });
}

/** Encoders would replace lone surrogates. */
function wellFormed(text) {
  if (typeof text === "string" && !/\p{Cs}/u.test(text)) return text;
  throw new TypeError("live: topic, token or query is not a well-formed string");
}

function resolve(url) {
  try {
    const full = new URL(wellFormed(String(url)), globalThis.location?.href).href;
    const address = full.replace(/^http/, "ws").replace(/#.*/, "");
    if (/^wss?:/.test(address)) return address;
  } catch {
    // See below.
  }
  throw new TypeError(`live: "${url}" is not an http or ws address; give a full one`);
}

function withQuery(address, query) {
  if (typeof query === "object") {
    query = query[Symbol.iterator] ? [...query] : Object.entries(present({ ...query }));
    query.flat().forEach(wellFormed);
    query = String(new URLSearchParams(query));
  }
  const url = new URL(address);
  const text = wellFormed(query).replace(/^\?/, "");
  for (const [name] of new URLSearchParams(text)) if (url.searchParams.has(name)) url.searchParams.delete(name);
  if (text) url.search += (url.search && "&") + text;
  return url.href;
}

function base64url(text) {
  const base64 = btoa(String.fromCharCode(...encoded(text)));
  return base64.replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
}

