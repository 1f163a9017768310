import type { LiveClient, TopicOf, Untyped } from "./live.js";
import type { AnyTopic, Nothing, PresenceOptions, PresenceView, StateOptions, StateView, TableView, TopicOptions, TopicView } from "./hooks.js";

export type * from "./hooks.js";

/**
 * The newest messages of a topic:
 *
 *     const { messages } = useTopic(live, "news", { last: 20 });
 *
 * All hooks subscribe when the component mounts, and end the subscription when it unmounts. Components that call a hook with
 * the same topic and options share one subscription and one value. A value stays the same object until something changes.
 * On a server, while a page is rendered there, and for `live` or `topic` that is null, the view is empty.
 */
export declare function useTopic<Topics, Topic extends TopicOf<Topics>>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
  options?: TopicOptions,
): TopicView<Topics[Topic]>;
export declare function useTopic<Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
  options?: TopicOptions,
): TopicView<Data>;

/**
 * The state of a topic. With `fold`, it begins with what the topic's `Snapshot` returns, and `fold` adds each later message:
 *
 *     const add = (scores: Scores = {}, { player, score }: Score) => ({ ...scores, [player]: score });
 *     const { state } = useLiveState(live, "scores", { fold: add });
 *
 * Without `fold`, it is a Map with the newest value of each key of a keyed topic.
 */
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>, State>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
  options: StateOptions<State, Topics[Topic]>,
): StateView<State>;
export declare function useLiveState<State, Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
  options: StateOptions<State, Data>,
): StateView<State>;
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>>(
  live: LiveClient<Topics> | Nothing,
  topic: Topic | Nothing,
): TableView<Topics[Topic]>;
export declare function useLiveState<Data = unknown, Topics = Untyped>(
  live: LiveClient<Topics> | Nothing,
  topic: AnyTopic<Topics> | Nothing,
): TableView<Data>;

/** Who is present in a topic. The page is present too, unless it is `unseen`. */
export declare function usePresence<Topics>(
  live: LiveClient<Topics> | Nothing,
  topic: TopicOf<Topics> | AnyTopic<Topics> | Nothing,
  options?: PresenceOptions,
): PresenceView;
