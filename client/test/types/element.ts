// The element, and its events, with types.
import { connect } from "livetopic";
import { LiveTopic } from "livetopic/element";

LiveTopic.client = connect("/live");
const element = document.createElement("live-topic");
element.client = null;
element.addEventListener("live-message", (event) => {
  if (event.detail.topic === "news" && event.detail.recovered) event.preventDefault();
});
document.addEventListener("live-gap", ({ detail }) => detail.reason.length);
document.querySelector("live-topic")?.client?.reconnect();

// @ts-expect-error: there is no such property
element.topics = "news";
// @ts-expect-error: a client is no address
element.client = "/live";
