import type { ComputedRef, MaybeRefOrGetter } from "vue";
import type { LiveClient, TopicOf, Untyped } from "./live.js";
import type { AnyTopic, Nothing, PresenceOptions, PresenceView, StateOptions, StateView, TableView, TopicOptions, TopicView } from "./hooks.js";

export type * from "./hooks.js";

/** Each part of a view is a ref of its own. */
export type Refs<Of> = { readonly [Name in keyof Of]: ComputedRef<Of[Name]> };

/**
 * The newest messages of a topic:
 *
 *     const { messages } = useTopic(live, "news", { last: 20 });
 *
 * All composables subscribe at once, and end the subscription with the component or the effect scope. A client, a topic or
 * options may be a ref or a getter: the composable then follows its changes. Callers with the same topic and options share one
 * subscription and one value. If `live` or `topic` is null, the view is empty. Give null for `live` on a server, where
 * components never unmount.
 */
export declare function useTopic<Topics, Topic extends TopicOf<Topics>>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<Topic | Nothing>,
  options?: MaybeRefOrGetter<TopicOptions | undefined>,
): Refs<TopicView<Topics[Topic]>>;
export declare function useTopic<Data = unknown, Topics = Untyped>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<AnyTopic<Topics> | Nothing>,
  options?: MaybeRefOrGetter<TopicOptions | undefined>,
): Refs<TopicView<Data>>;

/**
 * The state of a topic. With `fold`, it begins with what the topic's `Snapshot` returns, and `fold` adds each later message:
 *
 *     const add = (scores: Scores = {}, { player, score }: Score) => ({ ...scores, [player]: score });
 *     const { state } = useLiveState(live, "scores", { fold: add });
 *
 * Without `fold`, it is a Map with the newest value of each key of a keyed topic.
 */
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>, State>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<Topic | Nothing>,
  options: StateOptions<State, Topics[Topic]>,
): Refs<StateView<State>>;
export declare function useLiveState<State, Data = unknown, Topics = Untyped>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<AnyTopic<Topics> | Nothing>,
  options: StateOptions<State, Data>,
): Refs<StateView<State>>;
export declare function useLiveState<Topics, Topic extends TopicOf<Topics>>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<Topic | Nothing>,
): Refs<TableView<Topics[Topic]>>;
export declare function useLiveState<Data = unknown, Topics = Untyped>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<AnyTopic<Topics> | Nothing>,
): Refs<TableView<Data>>;

/** Who is present in a topic. The page is present too, unless it is `unseen`. */
export declare function usePresence<Topics>(
  live: MaybeRefOrGetter<LiveClient<Topics> | Nothing>,
  topic: MaybeRefOrGetter<TopicOf<Topics> | AnyTopic<Topics> | Nothing>,
  options?: MaybeRefOrGetter<PresenceOptions | undefined>,
): Refs<PresenceView>;
