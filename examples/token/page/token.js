// A page that signs in with a token, and fetches another when it needs one.

import { connect } from "/live.js";

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
let count = 0;
let until; // when the token expires, in ms

/** live.js asks before each attempt to connect, and tries again if there is no token. */
async function newToken() {
  let answer;
  try {
    answer = await fetch("/token", { method: "POST", body: new URLSearchParams({ user: "page" }) });
  } catch {
    return fail("the server cannot be reached");
  }
  if (!answer.ok) return fail(`the server answered ${answer.status}`);
  const { token } = await answer.json();
  $("count").textContent = ++count;
  $("problem").hidden = true;
  return token;
}

function fail(why) {
  $("problem").textContent = `No token: ${why}. The page tries again by itself.`;
  $("problem").hidden = false;
  throw new Error(`no token: ${why}`);
}

const live = connect("/live", { token: newToken });
live.on("error", (error) => console.warn(error)); // the page says it already

live.on("state", ({ state }) => {
  const words = { connecting: "Connecting…", open: "Live", waiting: "Reconnecting…", closed: "Disconnected" };
  $("line").dataset.state = state;
  $("line").textContent = words[state];
  if (state !== "open") until = undefined;
  showUntil();
});

live.on("open", async () => {
  try {
    const { user, expires } = await live.request("who");
    $("user").textContent = user;
    until = Date.parse(expires);
  } catch {
    return; // the connection is lost: the next one asks again
  }
  showUntil();
});

setInterval(showUntil, 1000);

function showUntil() {
  const left = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  $("until").textContent = until ? `${clock.format(until)}, in ${left} s` : "–";
}
