/** @import * as api from "./vue.d.ts" */

import { computed, shallowRef, toRaw, toValue, watch } from "vue";
import { open } from "./stores.js";
import { folded, messages, presence, table } from "./views.js";

/** @returns {any} */
function useView(view, live, topic, options) {
  const value = shallowRef(view.empty);
  // Private fields cannot be read through a reactive client.
  const given = [() => toRaw(toValue(live)), () => toValue(topic), () => JSON.stringify(toValue(options))];
  const begin = (/** @type {any} */ [client, name], _, onCleanup) => {
    const { subscribe, get } = open(view, client, name, toValue(options));
    const show = () => (value.value = get());
    onCleanup(subscribe(show));
    show();
  };
  watch(given, begin, { immediate: true }); // ends with the component or the scope
  return Object.fromEntries(Object.keys(view.empty).map((name) => [name, computed(() => value.value[name])]));
}

/** @type {typeof api.useTopic} */
export const useTopic = (live, topic, options) => useView(messages, live, topic, options);

/** @type {typeof api.useLiveState} */
export const useLiveState = (live, topic, /** @type {any} */ options = {}) =>
  useView(toValue(options).fold ? folded : table, live, topic, options);

/** @type {typeof api.usePresence} */
export const usePresence = (live, topic, options) => useView(presence, live, topic, options);
