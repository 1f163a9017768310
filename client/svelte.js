// These stores follow Svelte's contract for stores, so they need nothing of Svelte.
/** @import * as api from "./svelte.d.ts" */

import { open } from "./stores.js";
import { folded, messages, presence, table } from "./views.js";

/** @returns {any} */
function storeOf(view, live, topic, options) {
  const { subscribe, get } = open(view, live, topic, options);
  return {
    subscribe(run) {
      const end = subscribe(() => run(get()));
      run(get());
      return end;
    },
  };
}

/** @type {typeof api.useTopic} */
export const useTopic = (live, topic, options) => storeOf(messages, live, topic, options);

/** @type {typeof api.useLiveState} */
export const useLiveState = (live, topic, /** @type {any} */ options = {}) => storeOf(options.fold ? folded : table, live, topic, options);

/** @type {typeof api.usePresence} */
export const usePresence = (live, topic, options) => storeOf(presence, live, topic, options);
