// Stores for Svelte with types. They are stores as svelte/store declares them.
import { connect } from "livetopic";
import { useLiveState, usePresence, useTopic } from "livetopic/svelte";
import { derived, get, type Readable } from "svelte/store";

interface Topics {
  news: { text: string };
  scores: number;
}

const live = connect<Topics>("/live");
const untyped = connect("/live");
export const texts: Readable<string[]> = derived(useTopic(live, "news", { last: 1 }), ({ messages }) => messages.map(({ data }) => data.text));
export const best: number | undefined = get(useLiveState(live, "scores", { fold: (top: number = 0, score) => Math.max(top, score) })).state;
export const table: number | undefined = get(useLiveState<number>(untyped, "table")).state.get("a");
export const count: number | undefined = get(usePresence(live, "news")).count;
useTopic(null, "").subscribe(({ gap }) => gap?.topic);

// @ts-expect-error: there is no such topic
useTopic(live, "new");
// @ts-expect-error: a store has to be subscribed
useTopic(live, "news").messages;
