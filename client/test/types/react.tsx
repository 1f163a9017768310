// Components in React with types: what is wrong in them is found.
import { connect, type Message } from "livetopic";
import { useLiveState, usePresence, useTopic } from "livetopic/react";
import type { TopicView } from "livetopic/react";

interface Line {
  text: string;
}

interface Topics {
  [room: `room:${string}`]: Line;
  scores: { player: string; score: number };
  votes: string;
}

const live = connect<Topics>("/live");
const untyped = connect("/live");
type Scores = Record<string, number>;
const add = (scores: Scores = {}, { player, score }: Topics["scores"]): Scores => ({ ...scores, [player]: score });

export function Room({ name }: { name: string | null }) {
  const { messages, newest, gap, error, ready } = useTopic(live, name && (`room:${name}` as const), { last: 20, limit: 200 });
  const { members, count } = usePresence(live, "room:1", { info: { name }, unseen: false });
  const { state: scores } = useLiveState(live, "scores", { fold: add });
  const { state: votes } = useLiveState(live, "votes");
  const first: Message<Line> | undefined = messages[0];
  const vote: string | undefined = votes.get("ann");
  const best: number | undefined = scores?.["ann"];
  const reason: "lost" | "not_recovered" | "no_history" | undefined = gap?.reason;
  const shown: string[] = members.map(({ id }) => id);
  return [first?.data.text, newest?.data.text, vote, best?.toFixed(), reason, error?.message, String(ready && count), ...shown];
}

export function Others() {
  const view: TopicView<Line> = useTopic<Line>(untyped, "anything");
  const { state } = useLiveState(untyped, "scores", { fold: add });
  const { state: table } = useLiveState<number>(untyped, "table");
  const { newest } = useTopic(null, "news");
  usePresence(untyped, "room");
  usePresence(undefined, false);
  // @ts-expect-error: without a type, data is unknown
  newest?.data.text;
  // @ts-expect-error: a state may not have come yet
  state.ann;
  return [view.newest?.data.text, table.get("a")?.toFixed()];
}

export function Wrong() {
  // @ts-expect-error: there is no such topic
  useTopic(live, "new");
  // @ts-expect-error: there is no such topic
  usePresence(live, "new");
  // @ts-expect-error: there is no such option
  useTopic(live, "votes", { first: 20 });
  // @ts-expect-error: the votes are strings
  useLiveState(live, "votes", { fold: add });
  // @ts-expect-error: a view is only read
  useTopic(live, "votes").messages.push();
  // @ts-expect-error: a client is needed
  useTopic("votes");
  const { newest } = useTopic(live, "votes");
  // @ts-expect-error: the data is a string
  newest?.data.text;
}
