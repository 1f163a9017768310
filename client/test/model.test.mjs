// Pages that subscribe and leave at every moment, also while they are called, and a server that drops, cuts and fails. No
// caller misses a message without being told.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setUp, settled, start } from "./fakes.mjs";

const outside = setUp();

const SEEDS = 100;
const STEPS = 150;
const TOPICS = [
  { name: "long", history: 1_000 },
  { name: "short", history: 5 },
  { name: "state", history: 5, snapshot: true },
  { name: "none", history: 0 },
];

/** A server at the other end of a fake socket. The messages of a topic are the numbers 1, 2, 3, … */
class Server {
  topics = new Map(TOPICS.map((topic) => [topic.name, { ...topic, epoch: 1, log: [], next: 1 }]));
  subscribed = new Set();
  #socket;
  #in = [];
  #out = [];

  constructor(draw) {
    this.draw = draw;
  }

  get connected() {
    return this.#socket?.readyState === 1;
  }

  accept(socket) {
    if (this.connected || socket === this.#socket) return;
    this.#socket = socket;
    this.#in = [];
    this.#out = [];
    this.subscribed.clear();
    socket.greet(0); // this server does not ping
  }

  cut() {
    if (this.connected) this.#socket.end();
  }

  publish(name) {
    const topic = this.topics.get(name);
    const data = topic.next++;
    topic.log = topic.history ? [...topic.log, data].slice(-topic.history) : [];
    if (!this.subscribed.has(name)) return;
    const dropped = this.draw(12) === 0;
    this.#out.push(dropped ? { op: "gap", topic: name, at: at(topic) } : { topic: name, data, at: at(topic) });
  }

  /** The history of a topic begins anew. */
  forget(name) {
    const topic = this.topics.get(name);
    topic.epoch++;
    topic.log = [];
  }

  /** Carries out one operation of the client. One subscribe in ten fails, and then there is no subscription. */
  read() {
    if (!this.connected) return;
    this.#in.push(...this.#socket.heard());
    const { op, id, topic: name, since, last } = this.#in.shift() ?? {};
    const fails = op === "subscribe" && this.draw(10) === 0;
    if (op === "unsubscribe" || fails) this.subscribed.delete(name);
    if (fails) this.#out.push({ op: "error", id, topic: name, code: "unavailable", message: "later" });
    else if (op === "subscribe") this.#answer(id, this.topics.get(name), since, last);
  }

  #answer(id, topic, since, last = 0) {
    const reply = { op: "reply", id, at: at(topic) };
    let rest = [];
    if (since) {
      const [epoch, seen] = since.split(".").map(Number);
      for (let data = seen + 1; data < topic.next; data++) rest.push(data);
      reply.recovered = epoch === topic.epoch && rest.every((data) => topic.log.includes(data));
    }
    if (!reply.recovered) rest = topic.snapshot || !last ? [] : topic.log.slice(-last);
    if (!reply.recovered && topic.snapshot) reply.state = topic.next - 1;
    const first = this.draw(rest.length + 1); // so many in the reply; the others follow it
    if (first < rest.length) reply.at = at(topic, rest[first] - 1);
    const messages = rest.map((data) => ({ topic: topic.name, data, at: at(topic, data), recovered: true }));
    this.subscribed.add(topic.name);
    this.#out.push({ ...reply, messages: messages.slice(0, first) }, ...messages.slice(first));
  }

  /** Lets one frame reach the client. */
  write() {
    if (this.connected && this.#out.length) this.#socket.sayFrame(this.#out.shift());
  }
}

const at = (topic, data = topic.next - 1) => (topic.history ? `${topic.epoch}.${data}` : undefined);

/** A part of a page. `fault` says what it has missed without being told, or heard too late. */
class Caller {
  seen; // the newest number that it knows of; undefined: none yet, or a gap came
  over = false;
  accepted = false;
  fault;

  constructor(live, topic, { last, hasState, react }) {
    this.topic = topic;
    const hear = (data) => {
      if (this.over) this.fault ??= `${data} after the end`;
      if (topic === "none" && !this.accepted) return; // it may be of an older subscription: nothing tells
      if (data > this.seen + 1) this.fault ??= `${data} after ${this.seen}`;
      this.seen = Math.max(data, this.seen ?? 0);
      react();
    };
    const onGap = () => {
      this.seen = undefined;
      react();
    };
    const onState = (state) => {
      this.seen = state;
      react();
    };
    this.stop = live.subscribe(topic, hear, { last, onGap, onState: hasState ? onState : undefined });
    this.stop.ready.then(() => (this.accepted = true), () => {});
  }

  end() {
    this.over = true;
    this.stop();
  }
}

function lots(seed) {
  let state = seed * 7_919;
  return (below) => (state = (state * 48_271) % 2_147_483_647) % below;
}

async function play(seed) {
  const draw = lots(seed);
  const pick = (from) => from[draw(from.length)];
  const server = new Server(draw);
  const client = start(outside, { random: () => draw(100) / 100 });
  const { live } = client;
  const callers = [];
  let depth = 0;

  const leave = () => pick(callers.filter(({ over, stop }) => stop && !over))?.end();
  const join = () => {
    const last = pick([undefined, undefined, 3]);
    callers.push(new Caller(live, pick(TOPICS).name, { last, hasState: pick([true, false]), react }));
  };
  const act = () => {
    for (const action of pick([[join], [leave], [leave, join], [join, leave, join]])) action();
  };
  /** Callers subscribe and leave while they are called, too. */
  const react = () => {
    if (depth > 2 || draw(6) > 0) return;
    depth++;
    act();
    depth--;
  };

  for (let step = 0; step < STEPS; step++) {
    const lot = draw(40);
    if (lot < 6) act();
    else if (lot < 18) server.publish(pick(TOPICS).name);
    else if (lot < 24) server.read();
    else if (lot < 35) server.write();
    else if (lot < 37) server.cut();
    else if (lot < 39) outside.clock.advance(draw(2_000));
    else server.forget(pick(["short", "state"]));
    if (live.state === "connecting") server.accept(client.socket);
    if (draw(4) === 0) await settled();
  }
  server.draw = () => 1; // nothing fails any more
  for (let quiet = 0; quiet < 400; quiet++) {
    outside.clock.advance(500);
    if (live.state === "connecting") server.accept(client.socket);
    server.read();
    server.write();
    server.write();
  }
  await settled();

  const faults = callers.flatMap(({ fault }) => fault ?? []);
  const on = callers.filter(({ over }) => !over);
  for (const { topic, seen } of on) {
    const newest = server.topics.get(topic).next - 1;
    if (seen < newest) faults.push(`the last of ${topic} is ${seen} of ${newest}`);
  }
  const errors = client.all("error").filter(({ code }) => code !== "unavailable");
  assert.deepEqual([faults, errors], [[], []], `seed ${seed}`);
  assert.deepEqual([...server.subscribed].sort(), [...new Set(on.map(({ topic }) => topic))].sort(), `seed ${seed}`);
  live.close();
}

test("callers that come and go at every moment miss nothing without being told", async () => {
  for (let seed = 1; seed <= SEEDS; seed++) await play(seed);
});
