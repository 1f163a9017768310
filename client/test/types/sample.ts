// A program as a user writes it: it compiles under --strict, and what is wrong in it is found.
import { connect, LiveClient, LiveError } from "livetopic";
import type {
  CallOptions,
  Events,
  Gap,
  LiveErrorCode,
  Message,
  Options,
  Outgoing,
  Past,
  PublishOptions,
  SocketLike,
  State,
  StateEvent,
  SubscribeOptions,
  Subscription,
} from "livetopic";

interface Chat {
  user: string;
  text: string;
}

declare class AnySocket implements SocketLike {
  constructor(url: string, protocols?: string[]);
  readonly readyState: number;
  readonly protocol: string;
  send(frame: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: { data: string; code: number; reason: string }) => void): void;
}

declare const signal: AbortSignal;
declare function signIn(): Promise<string | null>;

const options: Options = {
  WebSocket: AnySocket,
  plain: false,
  token: signIn,
  query: () => ({ tab: "1" }),
  signal,
  backoff: { min: 100 },
  stableAfter: 1000,
  connectTimeout: 5000,
  maxBuffered: 0,
  maxUnsent: 65_536,
  random: () => 0.5,
  subscribeMessage: (topic) => (topic.startsWith("_") ? null : { topic: "join", data: topic }),
  unsubscribeMessage: () => null,
  publishMessage: (topic, data): Outgoing => ({ topic: "say", data: { topic, data } }),
};

const live: LiveClient = connect("/live", options);
const other = new LiveClient(new URL("https://app.example/live"));
connect();
connect("/live", { token: "secret", query: "?v=1", signal: undefined, random: undefined });
connect("/live", { token: () => null, query: null, plain: undefined });
connect(null, null);
connect("/live", {
  WebSocket: null,
  plain: null,
  token: null,
  signal: null,
  backoff: { min: null, max: null },
  stableAfter: null,
  connectTimeout: null,
  maxBuffered: null,
  maxUnsent: null,
  random: null,
  subscribeMessage: null,
  unsubscribeMessage: null,
  publishMessage: null,
});
connect("/live", { query: [["tag", "a"], ["tag", "b"]], backoff: null });
connect("/live", { query: () => ({ room: "7", tag: null }) });
connect("/live", { query: new URLSearchParams("a=1&a=2") });
declare function kept(name: string): string | null;

const stop: () => void = live.subscribe("chat", (chat: Chat, message) => {
  const text: string = chat.text;
  const whole: Message<Chat> = message;
  return [text, whole.topic];
});
live.subscribe<Chat>("chat", async ({ user }) => user.length);
live.subscribe("chat", (data) => {
  // @ts-expect-error: without a type, data is unknown
  return data.text;
});
stop();

const sent: boolean = live.send("chat", { text: "hi" }) && live.send("ping");

const subscribing: SubscribeOptions = { signal, last: 20, onGap: ({ topic, reason }: Gap) => topic + reason };
const subscription: Subscription = live.subscribe("chat", () => {}, subscribing);
live.subscribe("chat", () => {}, { since: "1.2" }).ready.then(() => subscription());
live.subscribe("chat", () => {}, { since: kept("at"), last: null, signal: null, onGap: null });
live.subscribe("chat", () => {}, null);
const unheard: () => void = live.listen("inbox", (mail: Chat) => mail.text);

const calling: CallOptions = { timeout: 500, signal, offline: "fail" };
async function ask(): Promise<[string | undefined, string[], unknown]> {
  const past: Past<Chat>[] = await live.history<Chat>("chat", 10, calling);
  const [first] = await live.history("chat");
  // @ts-expect-error: without a type, data is unknown
  first.data.text;
  const rooms = await live.request<string[]>("rooms", { prefix: past[0]?.at }, calling);
  await live.history("chat", null, null);
  await live.history("chat", null, { timeout: null, signal: null, offline: null });
  const publishing: PublishOptions = { ...calling, uid: "draft 7" };
  await live.publish("chat", 1, publishing).catch((err: LiveError) => err.code === "timeout" && err.sent === false);
  await live.publish("chat", 1, { uid: null });
  return [await live.publish("chat", past), rooms, await live.request("anything")];
}

live.on("state", ({ state, attempt, retryIn, code, reason, unsent }: StateEvent) => {
  const shown: State = state;
  return [shown, attempt + (retryIn ?? 0) + (code ?? 0) + (unsent ?? 0), reason?.length];
});
live.on("open", () => {});
live.on("close", ({ code, reason }) => [code.toFixed(), reason.length]);
live.on("message", ({ topic, at, recovered }) => topic + at?.length + recovered);
live.on("gap", ({ topic, reason }) => topic + (reason === "lost"));
const off = live.on("error", (err) => {
  if (!(err instanceof LiveError)) return;
  const code: LiveErrorCode = err.code;
  return code === "too_big" || code === "an application's own" || err.topic?.length;
});
off();

const name: keyof Events = "state";
const left: number | undefined = live.state === "waiting" ? live.retryIn : 0;
{
  using scoped = other;
  using chat = scoped.subscribe("chat", () => {});
  chat.ready.catch(() => scoped.url.length);
}
live.reconnect();
live.close();

// @ts-expect-error: a topic is a string
live.send(1, {});
// @ts-expect-error: there is no such event
live.on("opened", () => {});
// @ts-expect-error: the state is only read
live.state = "open";
// @ts-expect-error: there is no such option
connect("/live", { retry: 1 });
// @ts-expect-error: a subscription needs its function
live.subscribe("chat");
// @ts-expect-error: positions are opaque strings
live.subscribe("chat", () => {}, { since: 7 });
// @ts-expect-error: there is no such way
live.publish("chat", 1, { offline: "drop" });
// @ts-expect-error: a uid is a string
live.publish("chat", 1, { uid: 1 });
// @ts-expect-error: only publications have a uid
live.request("chat", 1, { uid: "draft 7" });
// @ts-expect-error: what is in a query is a string
connect("/live", { query: { page: 7 } });
// @ts-expect-error: a token is a string
connect("/live", { token: () => 7 });
// @ts-expect-error: publish answers later
const at: string = live.publish("chat", 1);

export { ask, at, left, name, sent, unheard };

const stopPresence = live.subscribe("room", () => {}, {
  info: { typing: false },
  unseen: false,
  onJoin: ({ id }) => id.length,
  onChange: (member, before) => [member.sessions.length, before.id],
  onPresence: ({ members, count }) => [members.get("ann")?.sessions[0], count],
});
stopPresence();
const member: Promise<string> = live.setPresence("room", { typing: true }, { timeout: 100 });
const cleared: Promise<void> = live.clearPresence("room");
export const here: [number | undefined, Promise<unknown>] = [live.presence("room").count, Promise.all([member, cleared])];
