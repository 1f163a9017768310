// What the hooks show of a topic. A view has `empty`, its value before anything came, and `begin`, which returns the
// listeners of the subscription and `read`, the value now. A view calls `set` after each change.

const view = (parts, begin) => ({ begin, empty: { ...parts, gap: undefined, error: undefined, ready: false } });

export const messages = view({ messages: [], newest: undefined }, ({ live, topic, signal, set }, { last = 0, limit }) => {
  const most = mostOf(limit, Math.max(last || 0, 100));
  // Only the first subscriber gets the last messages. Without a subscription each call returns a new object.
  const late = last && live.presence(topic) === live.presence(topic);
  let kept = new Map(); // by position, for a message may come twice
  const hear = (message) => {
    kept.set(message.at ?? message, message);
    if (kept.size > most) kept.delete(kept.keys().next().value);
  };
  const fill = () =>
    live.history(topic, last, { signal }).then(
      (past) => {
        const heard = kept.values();
        kept = new Map();
        for (const message of past) hear({ topic, ...message, recovered: true });
        for (const message of heard) if (isAfter(message.at, past.at(-1)?.at)) hear(message);
        set();
      },
      (error) => (/^(timeout|disconnected)$/.test(error.code) ? fill() : set({ error })),
    );
  return {
    hear,
    read() {
      const all = [...kept.values()];
      return { messages: all, newest: all.at(-1) };
    },
    ready: () => late && fill(),
  };
});

/** Positions of different epochs have no order. */
function isAfter(at = "", end = "") {
  const [epoch, offset] = at.split(".");
  const [ended, last] = end.split(".");
  return epoch !== ended || !(Number(offset) <= Number(last));
}

function mostOf(limit, usual) {
  if ((limit ?? 0) >= 0) return limit ?? usual;
  (globalThis.reportError ?? console.error)(new TypeError(`live: the limit ${limit} is not a number from 0`));
  return usual;
}

export const folded = view({ state: undefined }, ({ set }, { fold }) => {
  let state;
  const become = (next) => {
    state = next;
    set();
  };
  return {
    hear: (message) => become(fold(state, message.data, message)),
    read: () => ({ state }),
    onState: become,
  };
});

export const table = view({ state: new Map() }, ({ live, topic }) => ({
  hear() {}, // the client has the keys
  read: () => ({ state: new Map(live.keys(topic)) }),
}));

export const presence = view({ members: [], count: undefined }, ({ live, topic, set }) => ({
  onPresence: () => set(),
  read() {
    const { members, count } = live.presence(topic);
    return { members: [...members.values()], count };
  },
}));
