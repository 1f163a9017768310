import type { LiveClient, TopicOf, Untyped } from "./live.js";
import type { AnyTopic, Nothing, PresenceOptions, PresenceView, StateOptions, StateView, TableView, TopicOptions, TopicView } from "./hooks.js";

export type * from "./hooks.js";

/** A store as Svelte 4 and 5 understand it. `$name` reads it in a component. */
export interface LiveStore<Value> {
  subscribe(this: void, run: (value: Value) => void): () => void;
}

/**
 * The newest messages of a topic:
 *
 *     const news = useTopic(live, "news", { last: 20 }); // $news.messages
 *
 * A store subscribes to the topic as long as the store has subscribers itself. Stores of the same topic and options share one
 * subscription and one value. A value stays the same object until something changes. For another topic make another store, in
 * Svelte 5 by `$derived(useTopic(live, room))`. If `live` or `topic` is null, as on a server, the value is empty.
 */
export declare function useTopic<Topics, Topic extends TopicOf<Topics>>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
  options?: TopicOptions,
): LiveStore<TopicView<Topics[Topic]>>;
export declare function useTopic<Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
  options?: TopicOptions,
): LiveStore<TopicView<Data>>;

/**
 * The state of a topic. With `fold`, it begins with what the topic's `Snapshot` returns, and `fold` adds each later message:
 *
 *     const add = (scores: Scores = {}, { player, score }: Score) => ({ ...scores, [player]: score });
 *     const scores = useLiveState(live, "scores", { fold: add }); // $scores.state
 *
 * Without `fold`, it is a Map with the newest value of each key of a keyed topic.
 */
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>, State>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
  options: StateOptions<State, Topics[Topic]>,
): LiveStore<StateView<State>>;
export declare function useLiveState<State, Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
  options: StateOptions<State, Data>,
): LiveStore<StateView<State>>;
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
): LiveStore<TableView<Topics[Topic]>>;
export declare function useLiveState<Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
): LiveStore<TableView<Data>>;

/** Who is present in a topic. The page is present too, unless it is `unseen`. */
export declare function usePresence<Topics>(
  live: LiveClient<Topics> | Nothing,
  topic: TopicOf<Topics> | AnyTopic<Topics> | Nothing,
  options?: PresenceOptions,
): LiveStore<PresenceView>;
