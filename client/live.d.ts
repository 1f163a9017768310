/// <reference lib="esnext.disposable" />

/**
 * Connects at once and returns the client:
 *
 *     const live = connect("/live");
 *     const stop = live.subscribe("news", (data) => console.log(data));
 *
 * Throws a TypeError if the address cannot be one of a WebSocket, or if there
 * is no WebSocket here and the options give none.
 *
 * @param url An http(s) or ws(s) address, or a path, which is resolved against `location`. Default: `/live`.
 */
export declare function connect(url?: string | URL, options?: Options): LiveClient;

/** One connection to a live server, kept up until {@link LiveClient.close} or until the server ends it for good. */
export declare class LiveClient {
  constructor(url?: string | URL, options?: Options);

  /** The resolved ws(s) address. */
  readonly url: string;

  readonly state: State;

  /** Milliseconds until the next attempt, while `state` is `waiting`: what a countdown shows. */
  readonly retryIn: number | undefined;

  /**
   * Sends one message, which the application's OnMessage receives.
   *
   * Returns true if an open socket took it. Returns false if there is none now: the message is kept, as it is at this
   * moment, and sent after the reconnect, in order, once all topics are subscribed again. `undefined` travels as null.
   *
   * Throws a {@link LiveError}: `buffer_full` if `maxBuffered` messages wait already (nothing older is dropped for
   * it), `closed` after the end. True means handed over, not arrived: a connection that breaks loses what is under way.
   */
  send(topic: string, data?: unknown): boolean;

  /** Publishes through the application: sends what `publishMessage` makes of it. Returns and throws as `send` does. */
  publish(topic: string, data?: unknown): boolean;

  /**
   * Calls fn for each message of the topic; returns what ends that, for this caller alone.
   *
   * However many callers a topic has, the server is told once: by the first that comes and the last that goes, and
   * again after each reconnect. What was published while there was no connection is not delivered later.
   *
   * Throws a {@link LiveError} `closed` after the end.
   */
  subscribe<Data = unknown>(topic: string, fn: (data: Data, message: Message<Data>) => void): () => void;

  /** Calls fn at each event of that name; returns what ends that. */
  on<Name extends keyof Events>(name: Name, fn: (event: Events[Name]) => void): () => void;

  /**
   * The end: no reconnect, and no event any more but one `state` with `closed`. Closing twice does nothing.
   * Messages that still waited are not sent; that event counts them.
   */
  close(): void;

  /** The same as close, for `using live = connect()`. */
  [Symbol.dispose](): void;
}

/**
 * - `connecting`: a socket is being opened.
 * - `open`: connected, and the server has been sent every subscription.
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
  /**
   * What went wrong without anyone to throw it to: a listener that threw or rejected, a frame that is not a message.
   * Where nobody listens, it goes to `reportError`, or to the console. A lost connection is no error: see `state`.
   */
  error: unknown;
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
  /** How many retries there were since the last connection that proved stable. */
  attempt: number;
  /** `waiting`: milliseconds until the next attempt. */
  retryIn?: number;
  /** `closed`: how many messages still waited to be sent, and never will be. */
  unsent?: number;
}

/** What the server sends. */
export interface Message<Data = unknown> {
  topic: string;
  data: Data;
}

/** What the client sends. */
export interface Outgoing {
  topic: string;
  data?: unknown;
}

export interface Options {
  /**
   * The class to connect with. Default: the global one. Node before 22 has none: pass that of a package.
   */
  WebSocket?: new (url: string) => SocketLike;

  /**
   * The n-th retry (from 0) comes after a random time between 0 and min(max, min · 2ⁿ) milliseconds. It is random from
   * the first retry on, since clients that lost one server at one moment must not all be back at one moment.
   *
   * Default min 500: spreads the first retries enough, and is hardly felt by a person.
   * Default max 20000: a server that is down for long gets one attempt per client in 10 s on average, and a page
   * that nobody touches is back within 20 s of its return.
   */
  backoff?: { min?: number; max?: number };

  /**
   * How many milliseconds a connection must stand before the next loss counts as a first one. Default 5000: a server
   * that accepts and then dies at once must not be asked again at full speed for ever.
   */
  stableAfter?: number;

  /**
   * How many milliseconds a connection may take to open. Default 10000: a slow mobile network is through by then;
   * what is not open then mostly hangs, and browsers alone would wait for minutes.
   */
  connectTimeout?: number;

  /**
   * How many messages wait while there is no connection. Default 64: enough for what a person does during a short
   * loss, little enough that the reconnect is no flood. 0 keeps none: sending while not connected then throws.
   */
  maxBuffered?: number;

  /** A number from 0 up to 1, for the jitter. Default `Math.random`. Replaced in tests. */
  random?: () => number;

  /**
   * What tells the application that this client wants a topic; null if it need not be told, as where OnConnect
   * subscribes its sessions. Default: `{topic: "subscribe", data: {topic}}`.
   */
  subscribeMessage?: (topic: string) => Outgoing | null;

  /** What tells the application that this client wants it no more. Default: `{topic: "unsubscribe", data: {topic}}`. */
  unsubscribeMessage?: (topic: string) => Outgoing | null;

  /** What asks the application to publish. Default: `{topic: "publish", data: {topic, data}}`. */
  publishMessage?: (topic: string, data: unknown) => Outgoing;
}

/** The part of a WebSocket that is used. */
export interface SocketLike {
  readonly readyState: number;
  send(frame: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: any) => void): void;
}

/**
 * - `closed`: the client has ended; connect again.
 * - `buffer_full`: not connected, and as many messages wait as may.
 * - `bad_message`: the server sent a frame that is not a message.
 */
export type LiveErrorCode = "closed" | "buffer_full" | "bad_message";

export declare class LiveError extends Error {
  constructor(code: LiveErrorCode, text: string);
  readonly code: LiveErrorCode;
}
