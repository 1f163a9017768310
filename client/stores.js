// Hooks with the same client, view, topic and options share one store. The store has the subscription.

const clients = new WeakMap();
const valueIn = (map, key, Kind) => map.get(key) ?? map.set(key, new Kind()).get(key);

/** Opens a view of a topic. Without a client or a topic it stays empty. */
export function open({ begin, empty }, live, topic, options = {}) {
  if (!live || !topic) return { subscribe: () => () => {}, get: () => empty };
  const ofView = valueIn(valueIn(clients, live, WeakMap), begin, WeakMap);
  const stores = valueIn(ofView, options.fold ?? begin, Map);
  const key = JSON.stringify([topic, options]);
  const subscribe = (fn) => {
    const store = stores.get(key) ?? start(begin, empty, live, topic, options);
    const listener = () => fn(); // fn may be given twice
    stores.set(key, store);
    store.listeners.add(listener);
    return () => {
      store.listeners.delete(listener);
      // Frameworks may leave and come back at once.
      queueMicrotask(() => {
        if (store.listeners.size || stores.get(key) !== store) return;
        stores.delete(key);
        store.end.abort();
      });
    };
  };
  return { subscribe, get: () => stores.get(key)?.value ?? empty };
}

function start(begin, empty, live, topic, options) {
  const end = new AbortController();
  const store = { listeners: new Set(), value: empty, end };
  const told = {};
  let due = false;
  // Messages that come at once make one new value. `ready` follows them by one microtask, and is in that value too.
  const set = (change) => {
    Object.assign(told, change);
    if (!due) queueMicrotask(() => queueMicrotask(show));
    due = true;
  };
  const show = () => {
    due = false;
    store.value = { ...empty, ...told, ...view.read() };
    for (const listener of store.listeners) {
      try {
        listener();
      } catch (err) {
        (globalThis.reportError ?? console.error)(err);
      }
    }
  };
  const view = begin({ live, topic, signal: end.signal, set }, options);
  const hear = (_, message) => {
    view.hear?.(message);
    if (view.hear) set();
  };
  const ready = () => {
    set({ ready: true });
    view.ready?.();
  };
  const onGap = (gap) => set({ gap });
  const onEnd = (error) => set({ error, ready: false });
  try {
    live.subscribe(topic, hear, { ...options, ...view, onGap, onEnd, signal: end.signal }).ready.then(ready, () => {});
  } catch (error) {
    onEnd(error);
  }
  return store;
}
