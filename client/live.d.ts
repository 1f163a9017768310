/// <reference lib="esnext.disposable" />

/**
 * Connects at once and returns the client:
 *
 *     const live = connect("/live");
 *     const stop = live.subscribe("news", (data) => console.log(data));
 *     await live.publish("news", { text: "hello" });
 *
 * What the topics carry can be declared, name by name and pattern by pattern:
 *
 *     const live = connect<{ news: Item; [chat: `chat:${string}`]: ChatMessage }>("/live");
 *     live.subscribe("chat:general", (message) => message.text);
 *
 * Throws a TypeError if the address cannot be one of a WebSocket, and if options exclude each other (`plain` with `token`;
 * `backoff` with `min` above `max`). It dials at once, so it also throws what that throws: a TypeError if there is no
 * WebSocket here and the options give none, or if a `token` or a `query` cannot be sent as it is. If `token` or `query` is
 * a function, the dial comes later, and such an error is an `error` event. An option that is null is as if it were absent,
 * here and everywhere else.
 *
 * @param url An http(s) or ws(s) address, or a path, which is resolved against `location`. User and password, port and
 *   query are kept; a hash is left out. Default: `/live`.
 */
export declare function connect<Topics = Untyped>(
  url?: string | URL | null,
  options?: Options | null,
): LiveClient<Topics>;

/** Topics of which nothing is declared. */
export type Untyped = Record<string, unknown>;

/** The topics that are declared. */
export type TopicOf<Topics> = keyof Topics & string;

/** Any string, where no topics are declared; else nothing. */
type AnyTopic<Topics> = Untyped extends Topics ? string : never;

/**
 * One connection to a live server, kept up until {@link LiveClient.close} or until the server ends it for good.
 *
 * It offers the subprotocol `live.v1`, in which every operation has an answer, and a topic that keeps history is resumed
 * after a reconnect: each of its messages is delivered once and in order, or a `gap` is told. With the option `plain` it
 * speaks the plain wire: the application gets what `subscribeMessage` and its like make, nothing is answered, nothing
 * resumed, and `request` and `history` are `unsupported`. It does so too if the server does not agree to
 * `live.v1` and the connection opens all the same. It does with classes like that of Node's package `ws`. Browsers refuse
 * such a connection: they need the option `plain` there.
 *
 * On live.v1 a dead connection is found in two ways. One: nothing came for the server's ping interval and 10 s. The other:
 * the page wakes, asks for a sign of life, and hears nothing for about 2 s. Add 1 s for each 50 KB of the largest message
 * that this connection has brought. While an answer is due, or bytes are unsent, only the first way counts.
 *
 * The plain wire has no ping. There, a connection that died without a word is noticed only when the browser or the system
 * gives it up, which may take many minutes, and not when the page wakes. Messages that the server dropped for a slow client
 * are not noticed either: a `gap` is told after each reconnect, and at no other time.
 */
export declare class LiveClient<Topics = Untyped> {
  constructor(url?: string | URL | null, options?: Options | null);

  /** The resolved ws(s) address, without `query`. */
  readonly url: string;

  readonly state: State;

  /** Milliseconds until the next attempt, while `state` is `waiting`: what a countdown shows. */
  readonly retryIn: number | undefined;

  /** The server's id of the current or last connection. Give it to the server to leave this client out of a publication. */
  readonly session?: string;

  /**
   * Sends one message, which the application's OnMessage receives.
   *
   * Returns true if an open socket took it. Returns false if there is none now: the message is kept, as it is at this
   * moment, and sent after the reconnect, in order, once all topics are subscribed again. `undefined` travels as null.
   *
   * Throws a {@link LiveError}: `buffer_full` if `maxBuffered` messages or `maxUnsent` bytes wait already (nothing older is
   * dropped for it), `too_big` if the server does not take that many bytes, `closed` after the end. What waited and turns out
   * to be `too_big` is an `error` event. Throws a TypeError for a topic that is not a well-formed string, and for data
   * that is not JSON: functions, symbols, BigInts, NaN, infinities and circles, wherever they are. Members that are
   * undefined are left out. True means handed over, not arrived: a connection that breaks loses what is under way.
   */
  send(topic: string, data?: unknown): boolean;

  /**
   * Publishes. Resolves when the server has the publication for good: with its position if the topic keeps history.
   * On the plain wire it resolves, with nothing, when an open socket took what `publishMessage` made.
   *
   * While there is no connection it waits like what is sent, within its timeout; see {@link CallOptions}.
   *
   * Rejects with a {@link LiveError} that names the topic, or with a TypeError as `send` throws it. After `timeout` and
   * `disconnected` it is not known whether the server has it. It is never sent twice by itself.
   */
  publish(topic: AnyTopic<Topics>, data?: unknown, options?: CallOptions | null): Promise<string | undefined>;
  publish<Topic extends TopicOf<Topics>>(topic: Topic, data: Topics[Topic], options?: CallOptions | null): Promise<string | undefined>;

  /** Asks the application's OnRequest, and resolves with its answer. Waits and rejects as `publish` does. */
  request<Answer = unknown>(topic: string, data?: unknown, options?: CallOptions | null): Promise<Answer>;

  /**
   * Resolves with the newest publications of a topic, oldest first, whether it is subscribed or not.
   *
   * @param limit At most so many, up to 1000. Default 100.
   */
  history<Data = unknown>(topic: AnyTopic<Topics>, limit?: number | null, options?: CallOptions | null): Promise<Past<Data>[]>;
  history<Topic extends TopicOf<Topics>>(topic: Topic, limit?: number | null, options?: CallOptions | null): Promise<Past<Topics[Topic]>[]>;

  /**
   * Subscribes, and calls fn for each message of the topic. Returns what ends that for this caller; the others go on.
   *
   * All callers of a topic share one subscription. The first starts it, the last ends it, each reconnect renews it. A session
   * has one subscription to a topic, so the last caller also ends one that the application began at the server.
   *
   * If the topic keeps history, what was published while there was no connection comes first after a reconnect, as messages
   * that are `recovered`. If that is much, it arrives in parts: messages of other topics and answers may come between them,
   * but no newer message of this topic does.
   *
   * If the server refuses, `ready` rejects, an `error` event tells the topic, and the subscription is over: it is not
   * tried again until someone subscribes to the topic anew. So it is if the topic is `too_big` for the server.
   * `unavailable` and `internal` are no refusal: each is an `error` event, and the server is asked again, after about a
   * second at first, after some 20 s at last, and by the next connection in any case. A connection that breaks meanwhile is
   * no error: the next one asks.
   *
   * Throws a {@link LiveError} `closed` after the end, and a TypeError for a topic that is not a well-formed string, and
   * for `since` and `last` with the option `plain`.
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
   * Calls fn for each message of the topic without asking the server for it: for topics to which the application
   * subscribes its sessions, and for messages to this session alone. Returns what ends that.
   *
   * If a `subscribe` of the same topic has `since` or `last`, what is published until the server answers it comes with that
   * answer. `subscribe` alone never takes a message from `listen`.
   */
  listen<Data = unknown>(topic: AnyTopic<Topics>, fn: (data: Data, message: Message<Data>) => void): () => void;
  listen<Topic extends TopicOf<Topics>>(
    topic: Topic,
    fn: (data: Topics[Topic], message: Message<Topics[Topic]>) => void,
  ): () => void;

  /** Calls fn at each event of that name; returns what ends that. */
  on<Name extends keyof Events>(name: Name, fn: (event: Events[Name]) => void): () => void;

  /**
   * Tries now: for a button beside a countdown. `waiting`: dials at once. `open`: if nothing was heard for 2 s, asks for a
   * sign of life, and replaces a connection that gives none in time (see {@link LiveClient}). `connecting`: does nothing,
   * unless the attempt should have been given up already, as after sleep; then a new one begins.
   *
   * A page that wakes (`online`, `pageshow`, `focus`, `resume`, visible again) does this by itself, but dials once a second
   * at most, and not within a time for which the server has asked.
   *
   * Firefox holds dials back after some that failed, by itself and for up to a minute. A `HEAD` request is not held back. So
   * in Firefox live.js asks by one, before most dials, whether the server is up. It sends one when the first connection
   * stands, and believes that the server is down only if one was answered before. The server counts them as refused. After
   * an outage of 150 s `reconnect()` opened in 0.03 s instead of 33 s. A Content-Security-Policy must allow the request
   * (`connect-src`), and the address must have no password, which `fetch` refuses; else the wait is Firefox's. If a proxy of
   * another origin answered meanwhile, Firefox still delays the dial.
   *
   * Throws a {@link LiveError} `closed` after the end. Its text has the code and the reason, if the server ended it.
   */
  reconnect(): void;

  /**
   * The end: no reconnect, and no event any more but one `state` with `closed`. Closing twice does nothing.
   * Messages that still waited are not sent; that event counts them. What waits for an answer rejects with `closed`.
   */
  close(): void;

  /** The same as close, for `using live = connect()`. */
  [Symbol.dispose](): void;
}

/** Ends a subscription when it is called, or at the end of its block: `using news = live.subscribe(…)`. */
export interface Subscription {
  (): void;
  [Symbol.dispose](): void;

  /**
   * Resolves when the server has first agreed: from then on every publication comes. On the plain wire: when it was told.
   * Messages that are `recovered` come before it resolves, and if they are many, after it too.
   * Rejects with a {@link LiveError} when the server refuses, and with `aborted` or `closed` when it is ended before.
   * You may ignore it: a refusal is an `error` event too.
   */
  readonly ready: Promise<void>;
}

export interface SubscribeOptions {
  /** Ends the subscription when it aborts. */
  signal?: AbortSignal | null | undefined;

  /**
   * Asks for so many of the newest messages as well, up to 1000, if the topic keeps history; they come as `recovered`. After
   * a reconnect it is used only if not everything missed can be had. The messages then follow the `gap`. Counts for the
   * caller that comes first.
   */
  last?: number | null | undefined;

  /**
   * Resumes after this position, the `at` of a message or of a publication that an earlier page has kept. `last` is used
   * if this position is too old. Counts for the caller that comes first.
   */
  since?: string | null | undefined;

  /** Called for each `gap` of this topic. */
  onGap?: ((gap: Gap) => void) | null | undefined;
}

export interface CallOptions {
  /**
   * Rejects with `timeout` after so many milliseconds, those of waiting for a connection included. A large answer comes
   * in parts, and each part starts the time anew. Default 10000: a person has given up by then. `Infinity`, or anything from
   * 2³¹ on: never. What is negative or no number rejects at once.
   */
  timeout?: number | null | undefined;

  /** Rejects with `aborted`. What was not sent yet is not sent any more; what was is not taken back. */
  signal?: AbortSignal | null | undefined;

  /** Without a connection: `queue` waits for it, as one of at most `maxBuffered`; `fail` rejects with `offline`. Default `queue`. */
  offline?: "queue" | "fail" | null | undefined;
}

/**
 * - `connecting`: a socket is being opened.
 * - `open`: connected (on live.v1, the server has said hello), and the server has been sent every subscription.
 * - `waiting`: not connected; the next attempt is scheduled.
 * - `closed`: the end, by `close()` or by the server.
 */
export type State = "connecting" | "open" | "waiting" | "closed";

/** What `on` listens to. Where two events tell of one change, `state` comes first. */
export interface Events {
  /** Every change of `state`. */
  state: StateEvent;
  /** A connection stands: subscriptions and waiting messages have been handed to it. */
  open: undefined;
  /** A connection that stood has ended. A failed attempt is told by `state` alone. */
  close: Ending;
  /** Every message, before the subscribers of its topic get it. */
  message: Message;
  /** Messages of a topic were lost, or may have been: what is shown of it should be fetched anew. */
  gap: Gap;
  /**
   * Errors that no caller can catch: a listener that threw or rejected, a frame that is not a message, a `token` or `query`
   * that could not be had or sent, a subscription that was refused or must be asked for again (a {@link LiveError} with its
   * `topic`), a message that waited and is `too_big`.
   * Where nobody listens, it goes to `reportError`, or to the console. A lost connection is no error: see `state`.
   */
  error: unknown;
}

/**
 * Where messages of a topic are missing: between the last one and the next.
 *
 * - `lost`: the server says so; it has dropped some, mostly because this client was too slow.
 * - `not_recovered`: after a reconnect, or at first with `since`; the topic's history does not reach back far enough, or has
 *   begun anew.
 * - `no_history`: after a reconnect; the topic keeps none, so nobody knows whether there were any. This is so on the
 *   plain wire, too.
 */
export interface Gap {
  topic: string;
  reason: "lost" | "not_recovered" | "no_history";
}

/** How a connection ended. */
export interface Ending {
  /** The close code. 1006 if there was none, as when nobody answers. */
  code: number;
  reason: string;
}

/** A change of state: `waiting`, and `closed` by the server, carry what ended the connection. */
export interface StateEvent extends Partial<Ending> {
  state: State;
  /** How many retries there were since the last connection that proved stable, with the one that is awaited. */
  attempt: number;
  /** `waiting`: milliseconds until the next attempt. */
  retryIn?: number;
  /** `closed`: how many messages still waited to be sent, and never will be. */
  unsent?: number;
}

/** A publication, without its topic. */
export interface Past<Data = unknown> {
  data: Data;
  /** Its position, on a topic that keeps history: opaque, for `since`. */
  at?: string;
}

/** What the server sends. */
export interface Message<Data = unknown> extends Past<Data> {
  topic: string;
  /** True for what was published before: while there was no connection, or before the subscription that asked for `last`. */
  recovered?: true;
}

/** What the client sends. */
export interface Outgoing {
  topic: string;
  data?: unknown;
}

/** A value, or a function that is asked for it before each attempt to connect, and awaited. */
export type Asked<Value> = Value | null | undefined | (() => Value | null | undefined | Promise<Value | null | undefined>);

export interface Options {
  /**
   * The class to connect with. Default: the global one. Node before 22 has none: pass that of a package.
   */
  WebSocket?: (new (url: string, protocols?: string[]) => SocketLike) | null | undefined;

  /**
   * Speaks the plain wire, offering no subprotocol: for a server without live.v1, which browsers refuse if a subprotocol
   * was offered, and for an application that itself answers `subscribeMessage` and its like. Then `token`, and `since` and
   * `last` of a subscription, are a TypeError. See {@link LiveClient} for what is not noticed there. Default false.
   */
  plain?: boolean | null | undefined;

  /**
   * Signs in: travels as a subprotocol beside `live.v1`, as a page can set no header, and stays out of logs. A function is
   * asked before each attempt, so that it can fetch a new one; null and "" are none. If it fails, or its answer is not a
   * well-formed string, the attempt fails, and an `error` event tells why. After a sign-in has expired (a close code from
   * 4200 to 4299) it is asked within a second, not at once: many may expire together. The plain wire cannot carry it: use
   * `query` or a cookie.
   */
  token?: Asked<string>;

  /**
   * Goes behind the address's own query, replacing what has the same name there. A string goes as it is written. The address's
   * own query does too, unless a name is replaced: then the rest means the same but may be written otherwise. A name
   * may come several times, as in `[["tag", "a"], ["tag", "b"]]`. A member that is null is left out; any other that is not a
   * well-formed string is a TypeError. Asked for as `token` is. It may end up in logs.
   */
  query?: Asked<string | URLSearchParams | Iterable<[string, string]> | Record<string, string | null | undefined>>;

  /** Closes the client when it aborts. */
  signal?: AbortSignal | null | undefined;

  /**
   * The n-th retry (from 0) comes after a random time between 0 and min(max, min · 2ⁿ) milliseconds. It is random from
   * the first retry on, since clients that lost one server at one moment must not all be back at one moment. A server that
   * restarts may name another time.
   *
   * Default min 500: spreads the first retries enough, and is hardly felt by a person.
   * Default max 20000: a server that is down for long gets one attempt per client in 10 s on average, and a page
   * that nobody touches is back within 20 s of its return.
   *
   * A time that is negative or no number, here and as `connectTimeout`, is 5 s.
   */
  backoff?: { min?: number | null | undefined; max?: number | null | undefined } | null | undefined;

  /**
   * How many milliseconds a connection must stand before the next loss counts as a first one. Default 5000: a server
   * that accepts and then dies at once must not be asked again at full speed for ever.
   */
  stableAfter?: number | null | undefined;

  /**
   * How many milliseconds a connection may take to open, and the server's first frame to come. The time for `token` and
   * `query` is part of it, and in Firefox that for the `HEAD` (see {@link LiveClient.reconnect}). Default 10000: a slow
   * mobile network is through by then; what is not open then mostly hangs, and browsers alone would wait for minutes.
   */
  connectTimeout?: number | null | undefined;

  /**
   * How many messages and operations wait while there is no connection. Default 64: enough for what a person does during
   * a short loss, little enough that the reconnect is no flood. 0 keeps none: sending while not connected then fails.
   */
  maxBuffered?: number | null | undefined;

  /**
   * How many bytes may be handed to an open socket that has not sent them yet, by its `bufferedAmount`. Beyond it, messages
   * and operations fail with `buffer_full`, so that a slow uplink piles up nothing without end. A single message is
   * always taken when nothing is unsent. Default 1048576: some seconds of a mobile network.
   */
  maxUnsent?: number | null | undefined;

  /** A number from 0 up to 1, for the jitter. Default `Math.random`. Replaced in tests. */
  random?: (() => number) | null | undefined;

  /**
   * On the plain wire: what tells the application that this client wants a topic; null if it need not be told, as where
   * OnConnect subscribes its sessions. Default: `{topic: "subscribe", data: {topic}}`.
   */
  subscribeMessage?: ((topic: string) => Outgoing | null) | null | undefined;

  /** What tells the application that this client wants it no more. Default: `{topic: "unsubscribe", data: {topic}}`. */
  unsubscribeMessage?: ((topic: string) => Outgoing | null) | null | undefined;

  /** What asks the application to publish. Default: `{topic: "publish", data: {topic, data}}`. */
  publishMessage?: ((topic: string, data: unknown) => Outgoing) | null | undefined;
}

/** The part of a WebSocket that is used. */
export interface SocketLike {
  readonly readyState: number;
  readonly protocol: string;
  /** Bytes that were handed over and are not sent yet. A class without it is taken to send at once. */
  readonly bufferedAmount?: number | undefined;
  send(frame: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: any) => void): void;
}

/**
 * The client's own:
 *
 * - `closed`: the client has ended; connect again. The text says with which code and reason, if the server ended it.
 * - `timeout`: no answer in time. Whether it was carried out is not known, if it was sent.
 * - `disconnected`: it was sent, and the connection broke before the answer. Whether it was carried out is not known.
 * - `offline`: not sent, as there is no connection and it was not to wait for one.
 * - `buffer_full`: not sent, as there is no connection and as many wait as may, or as too many bytes are unsent.
 * - `too_big`: never sent, as it has more bytes than the server takes. The server says so too, of a publication that is
 *   larger than what keeps the messages takes.
 * - `aborted`: given up by its signal, or by its unsubscriber.
 * - `unsupported`: the plain wire does not have it.
 * - `bad_message`: the server sent a frame that is not a message, or an answer that is not JSON.
 *
 * The server's: `bad_request`, `unknown_op`, `forbidden`, `invalid_topic`, `too_many_topics`, `no_history`,
 * `unavailable` (try again later), `internal`; any other is the application's own.
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
  | "unavailable"
  | "internal"
  | (string & {});

export declare class LiveError extends Error {
  constructor(code: LiveErrorCode, text: string);
  readonly code: LiveErrorCode;
  /** The topic of the operation or the subscription that failed. A `ready` that is `aborted` or `closed` names none. */
  readonly topic?: string | undefined;
}
