// A page that signs in with a token, and fetches another when it needs one.

import { connect } from "/live.js";

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
let count = 0;

/** live.js asks before each attempt to connect. */
async function newToken() {
  const answer = await fetch("/token", { method: "POST", body: new URLSearchParams({ user: "page" }) });
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  const { token } = await answer.json();
  $("count").textContent = ++count;
  return token;
}

const live = connect("/live", { token: newToken });

live.on("state", ({ state }) => {
  const words = { connecting: "Connecting…", open: "Live", waiting: "Reconnecting…", closed: "Disconnected" };
  $("line").dataset.state = state;
  $("line").textContent = words[state];
});

live.on("open", async () => {
  const { user, expires } = await live.request("who");
  $("user").textContent = user;
  $("until").textContent = clock.format(new Date(expires));
});
