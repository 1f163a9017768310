// A program as a user writes it: it compiles under --strict, and what is wrong in it is found.
import { connect, LiveClient, LiveError } from "livetopic";
import type { Events, LiveErrorCode, Message, Options, Outgoing, SocketLike, State, StateEvent } from "livetopic";

interface Chat {
  user: string;
  text: string;
}

declare class AnySocket implements SocketLike {
  constructor(url: string, protocols?: string[]);
  readonly readyState: number;
  send(frame: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: { data: string; code: number; reason: string }) => void): void;
}

const options: Options = {
  WebSocket: AnySocket,
  backoff: { min: 100 },
  stableAfter: 1000,
  connectTimeout: 5000,
  maxBuffered: 0,
  random: () => 0.5,
  subscribeMessage: (topic) => (topic.startsWith("_") ? null : { topic: "join", data: topic }),
  unsubscribeMessage: () => null,
  publishMessage: (topic, data): Outgoing => ({ topic: "say", data: { topic, data } }),
};

const live: LiveClient = connect("/live", options);
const other = new LiveClient(new URL("https://app.example/live"));
connect();

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

const sent: boolean = live.send("chat", { text: "hi" }) && live.publish("chat", [1, 2]) && live.send("ping");

live.on("state", ({ state, attempt, retryIn, code, reason, unsent }: StateEvent) => {
  const shown: State = state;
  return [shown, attempt + (retryIn ?? 0) + (code ?? 0) + (unsent ?? 0), reason?.length];
});
live.on("open", () => {});
live.on("close", ({ code, reason }) => [code.toFixed(), reason.length]);
live.on("message", ({ topic }) => topic.length);
const off = live.on("error", (err) => {
  if (!(err instanceof LiveError)) return;
  const code: LiveErrorCode = err.code;
  return code === "bad_message";
});
off();

const name: keyof Events = "state";
const left: number | undefined = live.state === "waiting" ? live.retryIn : 0;
{
  using scoped = other;
  scoped.url.length;
}
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

export { left, name, sent };
