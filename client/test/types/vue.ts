// Composables in Vue with types.
import { connect } from "livetopic";
import { useLiveState, usePresence, useTopic } from "livetopic/vue";
import { computed, ref, type ComputedRef } from "vue";

interface Topics {
  [room: `room:${string}`]: { text: string };
  scores: number;
}

const live = connect<Topics>("/live");
const untyped = connect("/live");
const room = ref<`room:${string}`>("room:1");
const { messages, error, ready } = useTopic(live, room, { last: 20 });
export const texts: ComputedRef<string[]> = computed(() => messages.value.map(({ data }) => data.text));
export const said: ComputedRef<string> = computed(() => error.value?.message ?? String(ready.value));
useTopic(() => live, () => room.value, () => ({ limit: 5 }));
const { state } = useLiveState(live, "scores", { fold: (sum: number | undefined, score) => Math.max(sum ?? 0, score) });
export const best: number | undefined = state.value;
export const table: number | undefined = useLiveState<number>(untyped, "table").state.value.get("a");
export const members: string[] = usePresence(live, room).members.value.map(({ id }) => id);
useTopic(null, computed(() => null));

// @ts-expect-error: there is no such topic
useTopic(live, "new");
// @ts-expect-error: there is no such topic
useTopic(live, ref("new"));
// @ts-expect-error: the value of a ref
useTopic(live, room).messages.map(String);
