// The figures of the last five minutes, of each server and of all together. The page keeps them itself: the server
// remembers nothing for it.

export const KEPT = 300_000; // ms
export const POLL = 2000; // ms between two looks

/** A longer time without a look is a hole in the lines. A server that is silent for longer may be dead, and has no rates. */
export const HOLE = 3 * POLL;

/** The shortest time between two figures that give a rate, in ms. With a shorter one the rate would jump. */
const MIN_STEP = 500;

/** What the lines show. Each takes Stats, as Go has them, and returns a number. A figure of 0 may be missing there. */
const gauges = {
  sessions: (s) => s.Sessions,
  waiting: (s) => s.WaitingBytes ?? 0,
  behind: (s) => s.CatchingUp,
};
const counters = {
  delivered: (s) => s.Delivered,
  published: (s) => s.Published,
  closed: (s) => s.Closed ?? 0,
  resumed: (s) => (s.Recovered ?? 0) + (s.NotRecovered ?? 0),
};

export const ALL = "all";

/** The shortest time that the lines show, in ms. */
const SHORTEST = 60_000;

/**
 * The points of the lines, and the newest figures. All times here are on the page's monotonic clock. Each server counts
 * its ticks from another time, and behind a load balancer several servers may answer in turn.
 */
export class History {
  #offsets = new Map(); // id of a server that has answered → what is added to its ticks
  now = 0; // of the newest answer
  #series = new Map(); // server's id → points, the oldest first
  #newest = new Map(); // server's id → its newest {heard, stats, rates}
  #first = new Map(); // server's id → its first stats that the page has seen

  /** Adds an answer of the server. */
  add({ ticks, nodes }) {
    const now = this.#timeOf(ticks, nodes);
    const sum = {};
    for (const node of nodes) {
      const point = this.#pointOf(node, now - node.silentFor);
      if (node.silentFor > HOLE) for (const name of Object.keys(counters)) delete point[name];
      this.#push(node.id, now, point);
      for (const [name, value] of Object.entries(point)) {
        if (value !== undefined) sum[name] = (sum[name] ?? 0) + value;
      }
    }
    this.#push(ALL, now, sum);
    for (const id of this.#newest.keys()) {
      if (!nodes.some((node) => node.id === id)) [this.#newest, this.#first, this.#series, this.#offsets].forEach((map) => map.delete(id));
    }
    this.now = now;
  }

  #timeOf(ticks, nodes) {
    const { id } = nodes.find((node) => node.self);
    if (!this.#offsets.has(id)) this.#offsets.set(id, performance.now() - ticks);
    return Math.max(ticks + this.#offsets.get(id), this.now);
  }

  #pointOf({ id, stats }, heard) {
    if (!this.#first.has(id)) this.#first.set(id, stats);
    const last = this.#newest.get(id);
    let rates = last?.rates ?? {};
    const isNew = !last || heard - last.heard > MIN_STEP;
    if (last && isNew) {
      const seconds = (heard - last.heard) / 1000;
      rates = mapValues(counters, (read) => Math.max(read(stats) - read(last.stats), 0) / seconds);
    }
    if (isNew) this.#newest.set(id, { heard, stats, rates });
    return { ...mapValues(gauges, (read) => read(stats)), ...rates };
  }

  #push(id, at, values) {
    const points = this.#series.get(id) ?? [];
    this.#series.set(id, points);
    points.push({ at, values });
    while (points[0].at < at - KEPT) points.shift();
  }

  /** The time that the lines show, in ms. It grows until there are figures of five minutes. */
  window(scope) {
    const first = this.#series.get(scope)?.[0]?.at ?? this.now;
    return Math.min(Math.max(this.now - first, SHORTEST), KEPT);
  }

  /** The points of a figure, cut into runs where there is a hole. */
  runs(scope, name) {
    const runs = [];
    let before = -Infinity;
    for (const { at, values } of this.#series.get(scope) ?? []) {
      const value = values[name];
      if (value === undefined) continue;
      if (at - before > HOLE) runs.push([]);
      runs.at(-1).push({ at, value });
      before = at;
    }
    return runs;
  }

  /** The newest value of a figure; undefined: it is not known yet. */
  newest(scope, name) {
    return this.#series.get(scope)?.at(-1)?.values[name];
  }

  /** By how much counters have grown since the page was opened. read returns an object of numbers. */
  grown(scope, read) {
    const total = {};
    for (const [id, { stats }] of this.#newest) {
      if (scope !== ALL && scope !== id) continue;
      const first = read(this.#first.get(id));
      for (const [name, value] of Object.entries(read(stats))) total[name] = (total[name] ?? 0) + value - (first[name] ?? 0);
    }
    return total;
  }
}

const mapValues = (object, change) => Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
