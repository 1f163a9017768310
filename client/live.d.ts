/// <reference lib="esnext.disposable" />

/**
 * Connects at once and returns the client:
 *
 *     const live = connect("/live");
 *     const stop = live.subscribe("news", (data) => console.log(data));
 *     await live.publish("news", { text: "hello" });
 *
 * You can declare the type of the data of each topic, by name or by pattern:
 *
 *     const live = connect<{ news: Item; [chat: `chat:${string}`]: ChatMessage }>("/live");
 *     live.subscribe("chat:general", (message) => message.text);
 *
 * Throws a TypeError if the address is not valid for a WebSocket, and if two options exclude each other (`plain` with
 * `token`; `backoff` with `min` above `max`). It dials at once, so it also throws the errors of the dial: a TypeError if
 * there is no WebSocket class, here or in the options, a TypeError if the `token` or `query` cannot be sent, and what the
 * WebSocket class throws. Firefox's throws if the Content-Security-Policy forbids the address; in Chromium the dial then fails
 * as if there were no server. If `token`
 * or `query` is a function, the dial comes later, and an error of the dial is an `error` event. An option that is null
 * counts as absent, here and in all other methods.
 *
 * @param url An http(s) or ws(s) address, or a path, which is resolved against `location`. User, password, port and
 *   query are kept. A hash is left out. Default: `/live`.
 */
export declare function connect<Topics = Untyped>(
  url?: string | URL | null,
  options?: Options | null,
): LiveClient<Topics>;

/** The type of `Topics` if no topics are declared. */
export type Untyped = Record<string, unknown>;

/** The names of the declared topics. */
export type TopicOf<Topics> = keyof Topics & string;

/** Any string if no topics are declared; otherwise `never`. */
type AnyTopic<Topics> = Untyped extends Topics ? string : never;

/**
 * One connection to a live server. The client reconnects until {@link LiveClient.close} is called or the server ends the
 * client with a final close code.
 *
 * The client offers the subprotocol `live.v1`. On it, the server answers every operation. After a reconnect, a topic that
 * keeps history is resumed: each of its messages is delivered once and in order, or there is a `gap` event.
 *
 * With the option `plain` the client speaks the plain wire, where only plain messages travel. The client sends the messages
 * that the options `subscribeMessage`, `unsubscribeMessage` and `publishMessage` make, and the application handles them. No
 * message has an answer, nothing is resumed, and `request` and `history` reject with `unsupported`. The client also speaks
 * the plain wire if the server does not agree to `live.v1` and the connection opens nevertheless. It does so with the class
 * of Node's package `ws`, for example. Browsers refuse such a connection: with such a server they need the option `plain`.
 *
 * On live.v1, a dead connection is found in two ways:
 *
 * - The client hears nothing for the server's ping interval plus 10 s.
 * - The page wakes, and the client sends a ping and hears nothing for about 2 s. The time is 1 s longer for each 50 KB of
 *   the largest message that came on this connection. This way is not used while an answer is due or bytes are unsent.
 *
 * The plain wire has no ping. There, a connection that dies silently is noticed only when the browser or the operating
 * system gives it up. This may take many minutes, even if the page wakes. Messages that the server drops for a slow client
 * are not noticed on the plain wire. A `gap` is reported there only after each reconnect.
 */
export declare class LiveClient<Topics = Untyped> {
  constructor(url?: string | URL | null, options?: Options | null);

  /** The resolved ws(s) address, without `query`. */
  readonly url: string;

  readonly state: State;

  /** Milliseconds until the next attempt to connect, for a countdown. Undefined unless `state` is `waiting`. */
  readonly retryIn: number | undefined;

  /**
   * The server's id of the current or last connection. The server can leave this client out of a publication by this id.
   * Undefined before the first connection, and on the plain wire.
   */
  readonly session?: string;

  /**
   * Sends one message to the application's OnMessage. The server does not answer it.
   *
   * Returns true if an open socket took the message. It may still be lost if the connection breaks. Returns false if there
   * is no open socket: the message is kept with its present data, and sent after the reconnect, in order, when all topics
   * have been subscribed again. Data that is `undefined` is sent as null.
   *
   * The server ignores a message whose topic is longer than its limit (255 bytes by default), and the client is not told.
   *
   * Throws a {@link LiveError}: `buffer_full` if `maxBuffered` messages or `maxUnsent` bytes already wait (no earlier message
   * is dropped), `too_big` if the message has more bytes than the server takes, `closed` after the end. A message that has
   * waited and is then found to be `too_big` is an `error` event.
   *
   * Throws a TypeError for a topic that is not a well-formed string, and for data that contains a function, symbol, BigInt,
   * NaN, infinity or cycle, which JSON cannot express. Members that are undefined are left out.
   */
  send(topic: string, data?: unknown): boolean;

  /**
   * Publishes data to a topic. Resolves when the server has accepted the publication: with its position if the topic keeps
   * history, otherwise with undefined. On the plain wire, it resolves with undefined when an open socket took the message
   * that `publishMessage` made.
   *
   * Without a connection, the publication waits in the same buffer as messages of `send`, up to its timeout; see
   * {@link CallOptions}.
   *
   * If the connection breaks before the answer, the publication waits again, and is sent on the next connection, before newer
   * ones. Its `uid` tells the server that it is the same. On a topic with history it is published once; see
   * {@link PublishOptions}. On a topic without history it may be published twice, and so it may by a server that does not know
   * `uid`. The application's OnPublish is called each time.
   *
   * It is not sent again, and rejects with `disconnected`, in these cases:
   *
   * - The option `offline` is `fail`.
   * - It was sent for the first time more than 100 seconds ago. Servers know a `uid` for two minutes, so it could be made twice.
   * - `maxBuffered` messages and operations wait already.
   * - The server has ended the client for good.
   * - The close code is 1002, 1007, 1008, 1009 or 1011. The publication may be what made the server close the connection.
   *
   * Rejects with a {@link LiveError} that names the topic, or with the TypeErrors of `send`. If `sent` of the error is false,
   * the publication was not made. If it is true and the code is `timeout`, `disconnected`, `aborted` or `closed`, the server
   * may or may not have the publication. An error that the server answers rejects at once, also `unavailable`. In both cases
   * the page may publish again, with the same `uid`.
   */
  publish(topic: AnyTopic<Topics>, data?: unknown, options?: PublishOptions | null): Promise<string | undefined>;
  publish<Topic extends TopicOf<Topics>>(topic: Topic, data: Topics[Topic], options?: PublishOptions | null): Promise<string | undefined>;

  /**
   * The newest value of each key of a topic, while it is subscribed. On a keyed topic (`TopicOptions.Keyed`) these are all keys
   * that the topic has. The Map changes before the functions of `subscribe` are called for a message; read it there, and do not
   * change it. Where the client must be sent all keys anew, each is first removed, and then comes again. A topic that is not
   * subscribed has none.
   */
  keys<Data = unknown>(topic: AnyTopic<Topics>): ReadonlyMap<string, Data>;
  keys<Topic extends TopicOf<Topics>>(topic: Topic): ReadonlyMap<string, Topics[Topic]>;

  /**
   * Who is present in a topic, as far as the server tells: this page must be subscribed to it. While the connection is lost
   * it is who was there before. See `onPresence` of {@link SubscribeOptions}.
   */
  presence(topic: AnyTopic<Topics>): Presence;

  /**
   * Makes this page present in a topic, whether it is subscribed or not, and gives it an info that the others see: at most
   * 1 KB of JSON, such as `{ typing: true }`; without it none. Resolves with the `id` of this page's member. From then on each
   * new connection does the same by itself. It also does if the call has rejected with `timeout` or `disconnected`, so the
   * others see what the page has said last. Rejects as `request` does: with `forbidden` if the application's OnPresence
   * refuses, with `no_presence` if the topic has none. Unsubscribing ends it: a call that still waits for a connection
   * rejects with `aborted`. It also does if `subscribe` then brings another `info`, which is newer.
   */
  setPresence(topic: AnyTopic<Topics>, info?: unknown, options?: CallOptions | null): Promise<string>;

  /** Makes this page not present in a topic. A subscription goes on, unseen. */
  clearPresence(topic: AnyTopic<Topics>, options?: CallOptions | null): Promise<void>;

  /**
   * Asks the application's OnRequest, and resolves with its answer. Waits without a connection as `publish` does, but is never
   * sent a second time: if the connection breaks before the answer, it rejects with `disconnected`.
   *
   * If no answer has come after 10 s, it rejects with `timeout`, and a later answer is ignored. OnRequest may have done its
   * work all the same. For a slow OnRequest, set a longer `timeout`; see {@link CallOptions}.
   */
  request<Answer = unknown>(topic: string, data?: unknown, options?: CallOptions | null): Promise<Answer>;

  /**
   * Resolves with the newest publications of a topic, the oldest of them first. The topic need not be subscribed. Waits
   * without a connection and rejects as `request` does.
   *
   * @param limit The largest number of publications, up to 1000. Default 100.
   */
  history<Data = unknown>(topic: AnyTopic<Topics>, limit?: number | null, options?: CallOptions | null): Promise<Past<Data>[]>;
  history<Topic extends TopicOf<Topics>>(topic: Topic, limit?: number | null, options?: CallOptions | null): Promise<Past<Topics[Topic]>[]>;

  /**
   * Subscribes to a topic, and calls fn for each of its messages. Returns a {@link Subscription}: call it to end this
   * caller's subscription. Other callers keep theirs.
   *
   * All callers of a topic share one subscription at the server. The first caller starts it, the last one ends it, and each
   * reconnect renews it. A session has at most one subscription to a topic. So if the application has subscribed this
   * session to the topic, the last caller ends that subscription too.
   *
   * If the topic keeps history, the messages that were published while there was no connection come first after a
   * reconnect. They are marked `recovered`. If they are many, they arrive in parts. Messages of other topics and answers may
   * come between the parts, but no newer message of this topic.
   *
   * If the server refuses, `ready` rejects, an `error` event names the topic, and the subscription is over. The client asks
   * again only when someone subscribes to the topic anew. The same happens if the subscription is `too_big` for the server.
   * The errors `unavailable` and `internal` are not refusals: each is an `error` event, and the client asks again. The pause
   * is about a second at first and grows to at most 20 s. A new connection always asks at once. If the connection breaks
   * before the server has answered, there is no error, and the next connection asks.
   *
   * Throws a {@link LiveError} `closed` after the end. Throws a TypeError for a topic that is not a well-formed string, and
   * for `since` or `last` together with the option `plain`.
   */
  subscribe<Data = unknown>(
    topic: AnyTopic<Topics>,
    fn: (data: Data, message: Message<Data>) => void,
    options?: SubscribeOptions | null,
  ): Subscription;
  subscribe<Topic extends TopicOf<Topics>>(
    topic: Topic,
    fn: (data: Topics[Topic], message: Message<Topics[Topic]>) => void,
    options?: SubscribeOptions | null,
  ): Subscription;

  /**
   * Calls fn for each message of the topic that comes, without a subscription at the server. Use it for topics to which the
   * application subscribes its sessions, and for messages that the application sends to this session only. Returns a
   * function that ends the calls.
   *
   * If someone subscribes to the same topic with `since` or `last`, messages that are published before the server's answer
   * come with that answer. A `subscribe` without these options never keeps a message from `listen`.
   *
   * Throws a {@link LiveError} `closed` after the end, and a TypeError for a topic that is not a well-formed string.
   */
  listen<Data = unknown>(topic: AnyTopic<Topics>, fn: (data: Data, message: Message<Data>) => void): () => void;
  listen<Topic extends TopicOf<Topics>>(
    topic: Topic,
    fn: (data: Topics[Topic], message: Message<Topics[Topic]>) => void,
  ): () => void;

  /** Calls fn for each event of that name. Returns a function that ends the calls. */
  on<Name extends keyof Events>(name: Name, fn: (event: Events[Name]) => void): () => void;

  /**
   * Reconnects now, for a button beside a countdown. The effect depends on `state`:
   *
   * - `waiting`: dials at once.
   * - `open`: if nothing was heard for 2 s, sends a ping. If the server does not answer in time (see {@link LiveClient}),
   *   replaces the connection.
   * - `connecting`: does nothing. But if the time of the attempt is over, as after sleep, begins a new attempt.
   *
   * When the page wakes (`online`, `pageshow`, `focus`, `resume`, visible again), the client does the same by itself. But
   * then it dials at most once a second, and keeps to a wait that the server has asked for.
   *
   * In Firefox: after some failed dials, Firefox delays further dials by up to a minute. It does not delay a `HEAD` request.
   * So before most dials live.js checks by a `HEAD` request whether the server is up. It also sends one after the first
   * connection has opened. It believes that the server is down only if an earlier `HEAD` was answered. The server counts
   * these requests as refused. After an outage of 150 s, `reconnect()` opened in 0.03 s instead of 33 s. A
   * Content-Security-Policy must allow the request (`connect-src`), and the address must have no password, which `fetch`
   * refuses. Otherwise Firefox's delay remains. It also remains if a proxy of another origin answers during the outage.
   *
   * Throws a {@link LiveError} `closed` after the end. If the server ended the client, the text has the code and the reason.
   */
  reconnect(): void;

  /**
   * Closes the connection for good. The client never reconnects, and its last event is a `state` event with `closed`.
   * Messages that still wait are not sent; `unsent` of that event counts them. Calls that wait for an answer reject with
   * `closed`. A second `close` does nothing.
   */
  close(): void;

  /** The same as `close`, for `using live = connect()`. */
  [Symbol.dispose](): void;
}

/** A function that ends a subscription. With `using news = live.subscribe(…)` it is called at the end of the block. */
export interface Subscription {
  (): void;
  [Symbol.dispose](): void;

  /**
   * Resolves when the server has accepted the subscription for the first time. Every later publication is delivered. On the
   * plain wire, it resolves when the `subscribeMessage`, if there is one, has been sent.
   *
   * Messages marked `recovered` come before it resolves. But if they are many, the later ones come after it.
   *
   * Rejects with a {@link LiveError} if the server refuses. Rejects with `aborted` if the subscription is ended before it
   * resolves, and with `closed` if the client is. You may ignore the promise: a refusal is also an `error` event.
   */
  readonly ready: Promise<void>;
}

export interface SubscribeOptions {
  /** Ends the subscription when it aborts. */
  signal?: AbortSignal | null | undefined;

  /**
   * The number of newest messages that the server sends first, up to 1000, if the topic keeps history. They are marked
   * `recovered`. After a reconnect it is used only if the missed messages are no longer all there. Then the newest messages
   * follow the `gap`. Only the option of the topic's first caller is used.
   */
  last?: number | null | undefined;

  /**
   * Resumes after this position. It is the `at` of a message, or the position that `publish` returned, which an earlier page
   * has kept. If the position is too old, `last` is used. Only the option of the topic's first caller is used.
   */
  since?: string | null | undefined;

  /**
   * Called when something else than its caller ends the subscription: the server refuses it, at first or after a reconnect, or
   * the client ends. {@link Subscription.ready} rejects with the same error, but only at first.
   */
  onEnd?: ((error: LiveError) => void) | null | undefined;

  /** Called for each `gap` of this topic. */
  onGap?: ((gap: Gap) => void) | null | undefined;

  /**
   * Called with the state of the topic, if the application has a `Snapshot` for it. The state takes the place of everything
   * before it, and every message after it follows. It comes at first, and again where messages were lost, instead of a
   * `gap`. After a reconnect the missed messages come without a new state, if the history still has them. `at` is the
   * position of the state. `last` is not used then. A topic without a `Snapshot` never calls it.
   *
   * If no caller of the topic has it, there is a `gap` where a state would have come again. Give it to all callers of a topic,
   * or to none. If a caller with `onState` comes later, the client asks for the state again. All callers with `onState` get it,
   * and the others get some messages twice. If messages are lost, the others get `onGap`, and there is no `gap` event.
   */
  onState?: ((state: any, at: string) => void) | null | undefined;

  /**
   * What the others see of this page in the topic's presence, for example `{ typing: false }`. At most 1 KB of JSON.
   * The application may refuse it, and the subscription then. `setPresence` changes it.
   */
  info?: unknown;

  /** The page watches without being seen. Only the option of the topic's first caller is used. */
  unseen?: boolean | null | undefined;

  /**
   * Called when it becomes known who is present in the topic, and whenever that changes. `presence` is what
   * {@link LiveClient.presence} returns. It is called last, when `onJoin`, `onLeave` and `onChange` were. When another
   * caller of the topic comes later, all are called once more.
   */
  onPresence?: ((presence: Presence) => void) | null | undefined;

  /**
   * Called for each member that joins, leaves, or has other sessions or infos. Members that were there when it became known
   * who is present have not joined. After a reconnect only what is different from before is told: a connection that is
   * lost for a moment is no event here, and with a short absence none for the others. A topic with so many members that only
   * their number is told calls none of the three.
   */
  onJoin?: ((member: Member) => void) | null | undefined;
  onLeave?: ((member: Member) => void) | null | undefined;
  onChange?: ((member: Member, before: Member) => void) | null | undefined;
}

/** A user who is present in a topic, or one session without a user: then `id` begins with one colon. */
export interface Member {
  readonly id: string;

  /** The info of each session of the member; null: it has none. */
  readonly sessions: readonly any[];
}

/** Who is present in a topic. */
export interface Presence {
  /** By `id`. It is empty where the server tells only the number. Read it anew after each change: it may be another Map. */
  readonly members: ReadonlyMap<string, Member>;

  /** How many members there are. Undefined until the server has told, and on a topic without presence. */
  readonly count: number | undefined;
}

export interface CallOptions {
  /**
   * The call rejects with `timeout` after this many milliseconds, which include the wait for a connection, and all that a
   * publication needs to be sent again. A large answer comes in parts, and each part starts the time anew. Default 10000: a person has given up by then. `Infinity`, or any
   * number from 2³¹ on: no timeout. With a negative number or NaN the call rejects at once.
   */
  timeout?: number | null | undefined;

  /** When it aborts, the call rejects with `aborted`. A waiting call is not sent. A sent call is still carried out. */
  signal?: AbortSignal | null | undefined;

  /** If there is no connection, `queue` waits (see `maxBuffered`) and `fail` rejects with `offline`. Default `queue`. */
  offline?: "queue" | "fail" | null | undefined;
}

export interface PublishOptions extends CallOptions {
  /**
   * The name of the publication: a string of at most 64 bytes that no other publication has. On a topic with history the server
   * makes publications of one user with the same `uid` once, if they come within two minutes. So a page can keep an unsent
   * publication with its `uid`, and publish it again after a reload.
   *
   * Default: 128 random bits, from `crypto.getRandomValues`. Browsers and Node from 19 on have it.
   */
  uid?: string | null | undefined;
}

/**
 * - `connecting`: the client is opening a socket.
 * - `open`: connected, and all subscriptions have been sent. On live.v1, the server has said hello.
 * - `waiting`: not connected. The next attempt is scheduled.
 * - `closed`: ended for good, by `close()` or by the server.
 */
export type State = "connecting" | "open" | "waiting" | "closed";

/** The events of `on`. If two events report one change, `state` comes first. */
export interface Events {
  /** Every change of `state`. */
  state: StateEvent;
  /** A connection is open, and the subscriptions and the waiting messages have been handed to it. */
  open: undefined;
  /** A connection that was open has ended. A failed attempt to connect has only a `state` event. */
  close: Ending;
  /** Every message, before the subscribers of its topic get it. */
  message: Message;
  /** Messages of a topic were lost, or may have been. A page should fetch again what it shows of the topic. */
  gap: Gap;
  /**
   * Errors that no caller can catch:
   *
   * - a listener that threw or rejected;
   * - a frame that is not a message;
   * - a `token` or `query` whose function failed, or that cannot be sent;
   * - a subscription that the server refused, or that the client must ask for again (a {@link LiveError} with its `topic`);
   * - a message that has waited and is `too_big`.
   *
   * If nothing listens for this event, the error goes to `reportError`, or else to the console. A lost connection is not an
   * error: see `state`.
   */
  error: unknown;
}

/**
 * A gap: messages of a topic are missing, or may be, between the last one that came and the next one. `reason` is one of:
 *
 * - `lost`: the server has dropped messages, mostly because this client was too slow.
 * - `not_recovered`: after a reconnect, or at first with `since`. The topic's history does not reach back far enough, or it
 *   has begun anew.
 * - `no_history`: after a reconnect. The topic keeps no history, so it is not known whether messages were missed. On the
 *   plain wire every topic has this reason.
 */
export interface Gap {
  topic: string;
  reason: "lost" | "not_recovered" | "no_history";
}

/** How a connection ended. */
export interface Ending {
  /** The close code. 1006 if there was none, for example if no server answered. */
  code: number;
  reason: string;
}

/**
 * A change of state. `code` and `reason` are set with `waiting`, and with `closed` if the server ended the client. Of the
 * codes that end it, 4001 says that the user may not connect any more, and 4003 that a newer connection of the user took the
 * place of this one: tell the user that the page is open elsewhere, and call `connect` again when the user wants it here.
 */
export interface StateEvent extends Partial<Ending> {
  state: State;
  /** The number of retries since the last stable connection (see `stableAfter`). A scheduled retry counts too. */
  attempt: number;
  /** `waiting`: milliseconds until the next attempt. */
  retryIn?: number;
  /** `closed`: the number of messages and operations that waited to be sent, or to be sent again. */
  unsent?: number;
}

/** A publication, without its topic. */
export interface Past<Data = unknown> {
  data: Data;
  /** Its position, if the topic keeps history. Opaque; for `since`. */
  at?: string;
  /** Of which thing `data` is the newest value. */
  key?: string;
  /** True if the key has no value any more. There is no `data`. */
  removed?: true;
}

/** A message from the server. */
export interface Message<Data = unknown> extends Past<Data> {
  topic: string;
  /** True if it was published earlier: while there was no connection, or before a subscription with `last` or `since`. */
  recovered?: true;
}

/** A message to the server. */
export interface Outgoing {
  topic: string;
  data?: unknown;
}

/** A value, or a function that returns it. The function is called before each attempt to connect, and awaited. */
export type Asked<Value> = Value | null | undefined | (() => Value | null | undefined | Promise<Value | null | undefined>);

export interface Options {
  /**
   * The WebSocket class. Default: the global one. Node before 22 has none: give the class of a package.
   */
  WebSocket?: (new (url: string, protocols?: string[]) => SocketLike) | null | undefined;

  /**
   * True: speaks the plain wire and offers no subprotocol. Use it for a server without live.v1: if a subprotocol is offered
   * to such a server, browsers refuse the connection. Use it also for an application that handles `subscribeMessage`,
   * `unsubscribeMessage` and `publishMessage` itself. With it, `token` is a TypeError, and so are `since` and `last` of a
   * subscription. {@link LiveClient} says what is not noticed on the plain wire. Default false.
   */
  plain?: boolean | null | undefined;

  /**
   * The token for sign-in. It is sent as a subprotocol beside `live.v1`, since a page can set no header, and so it stays out
   * of logs. A function is called before each attempt, so that it can fetch a new token. null and "" mean no token. If the
   * function fails, or does not return a well-formed string, the attempt fails, and an `error` event says why. After an
   * expired sign-in (a close code from 4200 to 4299), the client waits a random time of up to a second before it calls the
   * function, since many sign-ins may expire together. The plain wire cannot carry a token: use `query` or a cookie.
   */
  token?: Asked<string>;

  /**
   * Query parameters that are appended to the query of the address. A parameter of the same name in the address is replaced.
   * A string is sent as it is written. The query of the address is sent as it is written too, unless a name is replaced:
   * then its other parameters keep their values but may be encoded differently. A name may come several times, as in
   * `[["tag", "a"], ["tag", "b"]]`. A member that is null is left out. Any other value that is not a well-formed string is a
   * TypeError, and so is a query of another kind, such as a number. A function is called as that of `token` is. The query may appear in logs.
   */
  query?: Asked<string | URLSearchParams | Iterable<[string, string]> | Record<string, string | null | undefined>>;

  /** Closes the client when it aborts. */
  signal?: AbortSignal | null | undefined;

  /**
   * The n-th retry (from 0) comes after a random time between 0 and min(max, min · 2ⁿ) milliseconds. The time is random
   * from the first retry on: if many clients lose a server together, they must not come back together. A server that
   * restarts may ask for another time.
   *
   * Default min 500: it spreads the first retries enough, and a person hardly notices it.
   * Default max 20000: a server that is down for long gets one attempt per client in 10 s on average. When it is back, a
   * page that nobody touches reconnects within 20 s.
   *
   * A negative time or NaN counts as 5 s. This is also so for `connectTimeout`.
   */
  backoff?: { min?: number | null | undefined; max?: number | null | undefined } | null | undefined;

  /**
   * A connection that was open for this many milliseconds is stable: after it, the retries begin again at n = 0. Default
   * 5000: a server that accepts connections and dies at once must not be dialed again and again without a growing delay.
   */
  stableAfter?: number | null | undefined;

  /**
   * The milliseconds that an attempt to connect may take, until the server's first frame has come. It includes the time for
   * the functions of `token` and `query`, and in Firefox the time for the `HEAD` (see {@link LiveClient.reconnect}). Default
   * 10000: a slow mobile network needs less. A connection that is not open by then mostly hangs, and a browser alone would
   * wait for minutes.
   */
  connectTimeout?: number | null | undefined;

  /**
   * The largest number of messages and operations that wait while there is no connection. Default 64: enough for the actions
   * of a person during a short loss, and few enough that a reconnect does not flood the server. Publications that wait to be
   * sent again count too. 0: nothing waits, and messages and operations without a connection fail with `buffer_full`.
   */
  maxBuffered?: number | null | undefined;

  /**
   * The largest number of bytes that an open socket may hold unsent (its `bufferedAmount`). Beyond it, messages and
   * operations fail with `buffer_full`, so that memory does not grow without end on a slow uplink. If no bytes are unsent,
   * a message of any size is taken. Default 1048576: some seconds of a mobile network.
   */
  maxUnsent?: number | null | undefined;

  /** Returns a number from 0 up to 1, for random waits. Default `Math.random`. Tests replace it. */
  random?: (() => number) | null | undefined;

  /**
   * On the plain wire: makes the message that asks the application to subscribe this client to a topic. It may return null to
   * send no message, for example if OnConnect subscribes the sessions. Default: `{topic: "subscribe", data: {topic}}`.
   */
  subscribeMessage?: ((topic: string) => Outgoing | null) | null | undefined;

  /**
   * On the plain wire: makes the message that asks the application to unsubscribe this client from a topic, or null for no
   * message. Default: `{topic: "unsubscribe", data: {topic}}`.
   */
  unsubscribeMessage?: ((topic: string) => Outgoing | null) | null | undefined;

  /**
   * On the plain wire: makes the message that asks the application to publish. Default:
   * `{topic: "publish", data: {topic, data}}`.
   */
  publishMessage?: ((topic: string, data: unknown) => Outgoing) | null | undefined;
}

/** The members of a WebSocket that the client uses. */
export interface SocketLike {
  readonly readyState: number;
  readonly protocol: string;
  /** Bytes that were handed over and are not sent yet. If a class has no such member, the client takes it as 0. */
  readonly bufferedAmount?: number | undefined;
  send(frame: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: any) => void): void;
}

/**
 * Codes of the client:
 *
 * - `closed`: the client has ended; connect again. If the server ended it, the text has the code and the reason.
 * - `timeout`: no answer in time. If the operation was sent (see `sent` of the error), the server may or may not have carried
 *   it out.
 * - `disconnected`: the operation was sent, and the connection broke before the answer. The server may or may not have
 *   carried it out. A publication is mostly sent again instead; see {@link LiveClient.publish}.
 * - `offline`: not sent, as there is no connection and the option `offline` is `fail`.
 * - `buffer_full`: not sent. Without a connection, `maxBuffered` messages and operations already wait. With one, too many
 *   bytes are unsent (see `maxUnsent`).
 * - `too_big`: not sent, as it has more bytes than the server takes. It is also a code of the server, for a publication
 *   that is larger than the server's storage takes.
 * - `aborted`: ended by its signal, or by the caller's end of the subscription.
 * - `unsupported`: the plain wire does not have this operation.
 * - `bad_message`: the server sent a frame that is not a message, or an answer that is not JSON.
 *
 * Codes of the server: `bad_request`, `unknown_op`, `forbidden`, `invalid_topic`, `too_many_topics`, `no_history`,
 * `rate_limited` (too many publications to this topic; publish again later), `unavailable` (try again later), `internal`. Any other code comes from the application.
 */
export type LiveErrorCode =
  | "closed"
  | "timeout"
  | "disconnected"
  | "offline"
  | "buffer_full"
  | "too_big"
  | "aborted"
  | "unsupported"
  | "bad_message"
  | "bad_request"
  | "unknown_op"
  | "forbidden"
  | "invalid_topic"
  | "too_many_topics"
  | "no_history"
  | "rate_limited"
  | "unavailable"
  | "internal"
  | (string & {});

export declare class LiveError extends Error {
  constructor(code: LiveErrorCode, text: string);
  readonly code: LiveErrorCode;
  /** The topic of the failed operation or subscription. Undefined if `ready` rejects with `aborted` or `closed`. */
  readonly topic?: string | undefined;
  /**
   * Whether the operation was sent to the server, at least once. If not, it was not carried out, and never will be. Undefined
   * if the error is not that of a `publish`, `request` or `history`.
   */
  readonly sent?: boolean | undefined;
}
