// Ties the parts together: the connection (live.js), what is known of the rooms
// (room.js), who writes (me.js), what is shown (log.js), and a line to cut (line.js).

import { connect, LiveError } from "/live.js";
import { cutLine, isCut, Line, mendLine } from "./line.js";
import { avatar, element, Log } from "./log.js";
import { loadName, onNameChanged, saveName } from "./me.js";
import { Room } from "./room.js";

const $ = (id) => document.getElementById(id);

/** How many messages a page asks for when it comes: all that a room remembers. */
const LAST = 100;

/** How many people a list names; the count is of all. */
const MAX_SHOWN = 100;

/** Errors of a request that pass with the moment: it is made again, after the next connect or AGAIN. */
const PASSING = ["offline", "disconnected", "timeout", "unavailable", "closed"];

/** When what could not be sent is tried again over a line that stands, in ms: a cluster takes seconds to go on without one. */
const AGAIN = 2000;

const log = new Log($("log"), $("messages"), $("empty"), $("newer"));
const rooms = new Map(); // those that were shown, by name
let name = loadName();
let me; // who the server says this page is
let room; // the one that is shown
let leave; // ends the subscription to it
let typing = false; // as the others see it
let unseen = 0; // messages that came while the tab was hidden

const live = connect("/live", { WebSocket: Line });
live.on("state", showState);
live.on("error", complain);
live.on("open", () => {
  arrive();
  sendPending();
});
follow("job:build", showBuild, { last: 1 });

// Rooms. The address names the one that is shown: #general.

addEventListener("hashchange", enterRoom);
enterRoom();

function enterRoom() {
  const wanted = location.hash.slice(1) || "general";
  if (wanted === room?.name) return;
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(wanted)) {
    location.replace("#" + (room?.name ?? "general"));
    notify(`“${wanted}” cannot be a room: its name is 1 to 32 of a-z, 0-9 and -, and does not begin with -.`);
    return;
  }
  leave?.();
  room = rooms.get(wanted) ?? new Room(wanted);
  rooms.set(wanted, room);
  showRoom();
  hear(room);
}

/** Enters a room: hears what is said there, sees who is there, and is seen. */
function hear(its) {
  typing = false;
  const add = (data, { at, recovered }) => {
    const news = its.add(data, at, recovered);
    log.add(news, me);
    if (news.length && (its.entered || !recovered)) countUnseen(data);
  };
  leave = follow("room:" + its.name, add, {
    since: its.at,
    last: LAST,
    onGap: () => log.add(its.addGap(), me),
    info: () => ({ name, typing }),
    onPresence: showPeople,
  });
  leave.ready.then(() => (its.entered = true), () => {}); // complain tells of a refusal
}

/**
 * Subscribes. When the connection was lost, live.js goes on from where it was; where it cannot, because the server does not
 * remember that much or is a new one, there is a gap, and the last of what there is follows. Where the server itself has lost
 * something, nothing follows: this begins anew.
 */
function follow(topic, fn, { since, onGap, info, ...options }) {
  let subscription;
  const begin = (from) => {
    subscription = live.subscribe(topic, fn, {
      ...options,
      info: info?.(), // as it is now
      since: from,
      onGap: (gap) => {
        onGap?.(gap);
        if (gap.reason === "not_recovered") return;
        subscription();
        begin();
      },
    });
  };
  begin(since);
  return Object.assign(() => subscription(), { ready: subscription.ready });
}

/** Asks the server who this page is, and which process answers: it is another one after a failover. */
async function arrive() {
  try {
    const { you, process } = await live.request("me", {}, { offline: "fail" });
    $("server").textContent = `Server: process ${process}`;
    if (you === me) return;
    me = you;
    showRoom();
  } catch (err) {
    complain(err);
  }
}

function showRoom() {
  $("room").textContent = "# " + room.name;
  $("text").placeholder = `Message #${room.name}`;
  if (![...$("rooms").querySelectorAll("a")].some((link) => link.hash === "#" + room.name)) {
    const link = element("a", "", room.name);
    link.href = "#" + room.name;
    const item = element("li");
    item.append(link);
    $("rooms").append(item);
  }
  for (const link of $("rooms").querySelectorAll("a")) {
    if (link.hash === "#" + room.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  log.show(room, me);
  showPeople();
  showTitle();
  openMenu(false);
}

$("go").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = $("other").value.trim().toLowerCase().replace(/^#/, "").replace(/\s+/g, "-");
  if (!wanted) return;
  $("other").value = "";
  location.hash = wanted;
  $("text").focus();
});

// Writing.

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  $("text").focus();
  type(false);
  notify("");
  const message = room.write(text, name);
  log.addPending(message);
  send(room, message);
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("text").addEventListener("input", () => type($("text").value.trim() !== ""));

let pause; // the timer after which somebody who pauses is not typing any more

function type(now) {
  clearTimeout(pause);
  if (now) pause = setTimeout(type, 3000, false);
  if (now === typing) return;
  typing = now;
  show();
}

/** Tells the others what they see of this page. */
function show() {
  live.setPresence("room:" + room.name, { name, typing }).catch(complain);
}

// A message is pending until it comes back. What still is after a reconnect is sent again; if the server has it
// already, it knows it by its key.
function sendPending() {
  for (const known of rooms.values()) for (const message of known.pending.values()) send(known, message);
}

let again; // the timer of the next attempt

async function send(its, { text, key }) {
  try {
    await live.request("say", { room: its.name, text, key }, { offline: "fail" });
  } catch (err) {
    if (PASSING.includes(err.code)) {
      if (live.state === "open") again ??= setTimeout(tryAgain, AGAIN);
      return;
    }
    its.pending.delete(key);
    log.refuse(key, textOf(err));
  }
}

function tryAgain() {
  again = undefined;
  if (live.state === "open") sendPending();
}

// The name.

$("name").value = name;
$("me").addEventListener("submit", (event) => {
  event.preventDefault();
  rename($("name").value);
  $("text").focus();
});
$("name").addEventListener("change", () => rename($("name").value));
onNameChanged((changed) => {
  name = $("name").value = changed;
  show();
});

function rename(wanted) {
  wanted = wanted.replace(/\s+/g, " ").trim();
  $("name").value = wanted || name;
  if (!wanted || wanted === name) return;
  name = wanted;
  saveName(name);
  show();
  announce(`You are now called ${name}.`);
}

// Who is here, and the build.

function showPeople() {
  const { members, count = 0 } = live.presence("room:" + room.name);
  const people = [...members.values()].map(personOf).sort((a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
  $("count").textContent = $("here").textContent = count;
  const shown = people.slice(0, MAX_SHOWN);
  $("people").replaceChildren(...shown.map(personItem));
  if (count > shown.length) $("people").append(element("li", "more", shown.length ? `and ${count - shown.length} more` : `${count} people`));
  showTyping(people.filter((person) => person.typing && person.id !== me).map((person) => person.name));
}

function showTyping(names) {
  const who = names.length > 2 ? "Several people are" : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"}`;
  $("typing").textContent = names.length ? `${who} typing…` : "";
}

/** A member as it is shown: a person, whatever the number of tabs. */
function personOf({ id, sessions }) {
  const shown = sessions.filter(Boolean);
  return { id, name: shown[0]?.name ?? "Somebody", tabs: sessions.length, typing: shown.some((session) => session.typing) };
}

function personItem(person) {
  const item = element("li");
  const text = element("span", "name");
  text.append(element("bdi", "", person.name));
  item.append(avatar(person.id, person.name), text);
  if (person.id === me) item.append(element("span", "tag", "you"));
  if (person.tabs > 1) item.append(element("span", "tag", `${person.tabs} tabs`));
  return item;
}

function showBuild({ number, stage, progress }) {
  $("build").value = progress;
  const text = number ? `Build #${number}: ${stage.toLowerCase()}` : "No build yet";
  $("build-text").textContent = progress < 100 ? `${text}, ${progress} %` : text;
}

// The connection, as a chip that counts down, and in words for who cannot see it.

let countdown;
let lost = false;
addEventListener("online", () => showState({ state: live.state }));
addEventListener("offline", () => showState({ state: live.state }));

function showState({ state }) {
  clearInterval(countdown);
  if (state === "waiting") countdown = setInterval(showChip, 250);
  if (state === "open") announce(lost ? "Connected again." : "");
  if (state === "waiting" && !lost) announce("The connection is lost. Reconnecting.");
  if (state === "closed") announce("The connection has ended. Reload the page to connect again.");
  if (state !== "connecting") lost = state !== "open";
  showChip();
}

function chipState() {
  if (live.state === "closed") return "closed";
  if (isCut()) return "cut";
  return live.state !== "open" && !navigator.onLine ? "offline" : live.state;
}

function showChip() {
  const state = chipState();
  const words = {
    connecting: lost ? "Reconnecting…" : "Connecting…",
    open: "Connected",
    waiting: "Reconnecting in",
    offline: "Offline",
    cut: "Line cut",
    closed: "Disconnected",
  };
  $("chip").dataset.state = state;
  $("chip-words").textContent = words[state];
  $("chip-words").classList.toggle("wide", state === "waiting"); // what a narrow screen can do without
  $("chip-time").textContent = state === "waiting" ? ` ${Math.ceil(live.retryIn / 1000)} s` : "";
  $("retry").hidden = !["waiting", "offline"].includes(state);
  $("mend").hidden = state !== "cut";
  $("line-hint").textContent = isCut()
    ? "Write something in another tab, then mend the line."
    : "Breaks this tab’s connection, as a tunnel does, to see how it comes back.";
  $("cut").textContent = isCut() ? "Mend the line" : "Cut the line";
}

$("retry").addEventListener("click", () => {
  $("text").focus(); // the button goes
  live.reconnect();
});

// What was said while the line is cut comes when it is mended.
$("cut").addEventListener("click", () => (isCut() ? mend() : cut()));
$("mend").addEventListener("click", () => {
  $("text").focus();
  mend();
});

function cut() {
  cutLine();
  showChip();
}

function mend() {
  mendLine();
  live.reconnect();
  showChip();
}

// The rest of the page.

$("menu").addEventListener("click", () => openMenu($("menu").getAttribute("aria-expanded") !== "true"));
$("veil").addEventListener("click", () => openMenu(false));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("menu").getAttribute("aria-expanded") !== "true") return;
  openMenu(false);
  $("menu").focus();
});

/** Opens the side, which a narrow screen hides. */
function openMenu(open) {
  $("menu").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("menu-open", open);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) unseen = 0;
  showTitle();
});

function countUnseen(message) {
  if (!document.hidden || message.person === me) return;
  unseen++;
  showTitle();
}

function showTitle() {
  document.title = `${unseen ? `(${unseen}) ` : ""}#${room.name} · Chat`;
}

/** Tells what went wrong, unless it is over when the connection stands again. */
function complain(err) {
  if (!(err instanceof LiveError)) reportError(err);
  else if (!PASSING.includes(err.code)) notify(textOf(err));
}

function textOf(err) {
  return err.message.replace(/^live: /, "");
}

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function announce(text) {
  $("announce").textContent = text;
}
