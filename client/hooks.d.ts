// What the hooks of React, Vue and Svelte have in common.
import type { Gap, LiveError, Member, Message, Untyped } from "./live.js";

/** In the place of a client or a topic that is not known yet. The hook shows an empty view until it is. */
export type Nothing = null | undefined | false | "";

/** Any string if no topics are declared; otherwise `never`. */
export type AnyTopic<Topics> = Untyped extends Topics ? string : never;

/** What every view has. */
export interface View {
  /**
   * The newest gap: messages of the topic were lost, or may have been. Each gap is a new object. So an effect that depends
   * on it can fetch again what the page shows.
   */
  readonly gap: Gap | undefined;

  /**
   * Why the view is not filled, or why nothing more comes. A {@link LiveError}: the server refused the last messages, or the
   * subscription (at first or after a reconnect), or the client has ended. A TypeError: the topic is not well-formed, or
   * `useLiveState` got a client of the plain wire.
   */
  readonly error: LiveError | TypeError | undefined;

  /** Whether there is a subscription that the server has accepted. It stays true while the connection is lost; see `state` of the client. */
  readonly ready: boolean;
}

export interface TopicView<Data = unknown> extends View {
  /** The newest messages, the oldest of them first. At most `limit`. */
  readonly messages: readonly Message<Data>[];

  /** The last of `messages`. */
  readonly newest: Message<Data> | undefined;
}

export interface StateView<State> extends View {
  /** Undefined until a state or a message has come. */
  readonly state: State | undefined;
}

export interface TableView<Data = unknown> extends View {
  /** The newest value of each key. It is a new Map after each change. */
  readonly state: ReadonlyMap<string, Data>;
}

export interface PresenceView extends View {
  /** Who is present, this page's user included. It is empty where the server tells only the number. */
  readonly members: readonly Member[];

  /** How many members there are. Undefined until the server has told, and on a topic without presence. */
  readonly count: number | undefined;
}

export interface TopicOptions {
  /**
   * The number of newest messages to begin with, up to 1000, if the topic keeps history. If the topic is subscribed already,
   * the hook asks for them by `history`. Default 0.
   */
  last?: number | undefined;

  /**
   * The largest number of messages that are kept. Older ones are dropped, so that a page that stays open for days does not
   * grow. Default 100, or `last` if that is more. Infinity: all are kept. `reportError` tells once of a limit that is negative
   * or not a number, and the default counts instead.
   */
  limit?: number | undefined;
}

export interface StateOptions<State, Data> {
  /**
   * Returns the state after a message. It must be a new object, because the old one must not change. `state` is at first what
   * the topic's `Snapshot` returned, and undefined if the topic has none. The state may have the message already. So a
   * message must say what a thing is now, and `fold` must take it twice without harm.
   *
   * Only the first function counts while the topic stays the same. Define it outside the component: then all components that
   * use it share one state.
   */
  fold(state: State | undefined, data: Data, message: Message<Data>): State;
}

export interface PresenceOptions {
  /** What the others see of this page, at most 1 KB of JSON. `setPresence` of the client changes it. */
  info?: unknown;

  /** The page watches without being seen. Only the option of the topic's first caller is used. */
  unseen?: boolean | undefined;
}
