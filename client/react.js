"use client"; // for servers that render components

/** @import * as api from "./react.d.ts" */

import { useMemo, useSyncExternalStore } from "react";
import { open } from "./stores.js";
import { folded, messages, presence, table } from "./views.js";

/** @returns {any} */
function useView(view, live, topic, options) {
  const key = JSON.stringify(options); // options are mostly written anew for each call
  const { subscribe, get } = useMemo(() => open(view, live, topic, options), [view, live, topic, key]);
  return useSyncExternalStore(subscribe, get, () => view.empty);
}

/** @type {typeof api.useTopic} */
export const useTopic = (live, topic, options) => useView(messages, live, topic, options);

/** @type {typeof api.useLiveState} */
export const useLiveState = (live, topic, /** @type {any} */ options = {}) => useView(options.fold ? folded : table, live, topic, options);

/** @type {typeof api.usePresence} */
export const usePresence = (live, topic, options) => useView(presence, live, topic, options);
