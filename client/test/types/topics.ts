// Declared topics: their data has a type for listeners, and is checked when it is sent.
import { connect, LiveClient } from "livetopic";
import type { Message, Past, TopicOf } from "livetopic";

interface ChatMessage {
  user: string;
  text: string;
}

interface Topics {
  news: { text: string };
  count: number;
  [chat: `chat:${string}`]: ChatMessage;
}

const live = connect<Topics>("/live");
const same: LiveClient<Topics> = new LiveClient<Topics>("/live");
declare const room: string;

live.subscribe("news", ({ text }) => text.length);
live.subscribe("news", (data, message: Message<{ text: string }>) => [data.text, message.data.text, message.at]);
live.subscribe("count", (n) => n.toFixed(), { last: 1 });
live.subscribe("chat:general", ({ user, text }) => user + text);
live.subscribe(`chat:${room}`, (message) => message.user);
live.listen("count", (n) => n + 1);
live.publish("news", { text: "hello" });
live.publish("count", 1, { timeout: 1000 });
live.publish(`chat:${room}`, { user: "ann", text: "hi" }).then((at: string | undefined) => at);
live.history("chat:general").then((past: Past<ChatMessage>[]) => past[0]?.data.text);
live.request<string[]>("rooms").then((rooms) => rooms.join());
live.send("say", "anything");

const topic: TopicOf<Topics> = "chat:general";
same.subscribe(topic, () => {});

// @ts-expect-error: there is no such topic
live.subscribe("new", () => {});
// @ts-expect-error: not every string is a topic
live.subscribe(room, () => {});
// @ts-expect-error: news has no number
live.subscribe("news", (data) => data.number);
// @ts-expect-error: news is no number
live.subscribe("news", (data: number) => data);
// @ts-expect-error: a chat's message has a user
live.publish("chat:general", { text: "hi" });
// @ts-expect-error: a count is a number
live.publish("count", "1");
// @ts-expect-error: there is no such topic
live.publish("new", 1);
// @ts-expect-error: what is declared has data
live.publish("news");
// @ts-expect-error: there is no such topic
live.listen("inbox", () => {});
// @ts-expect-error: there is no such topic
live.history("old");
// @ts-expect-error: the past has no number either
live.history("news").then(([first]) => first?.data.number);

connect<{ [topic: string]: ChatMessage }>().subscribe(room, ({ user }) => user);
