// Ties the parts together: the connection (live.js), what is known of the rooms
// (room.js), who writes (me.js) and what is shown (log.js).

import { connect } from "/live.js";
import { avatar, element, Log } from "./log.js";
import { loadName, onNameChanged, saveName } from "./me.js";
import { Room } from "./room.js";

const $ = (id) => document.getElementById(id);

const log = new Log($("log"), $("messages"), $("empty"), $("newer"));
const rooms = new Map(); // those that were shown, by topic
let name = loadName();
let me; // who the server says this page is
let room; // the one that is shown
let stop = () => {}; // ends the subscription to it
let unseen = 0; // messages that came while the tab was hidden

// After each connect live.js says again what the page is subscribed to. What it
// says names the place up to which the page has the room, so the answer is
// exactly what it missed. The topics beside rooms need not be asked for.
const live = connect("/live", {
  subscribeMessage: (topic) =>
    rooms.has(topic) ? { topic: "subscribe", data: { topic, name, after: rooms.get(topic).last } } : null,
  unsubscribeMessage: (topic) => (rooms.has(topic) ? { topic: "unsubscribe", data: { topic } } : null),
});

live.subscribe("job:build", showBuild);
live.subscribe("error", ({ message }) => notify(message));
live.on("state", showState);

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
  stop();
  const next = new Room(wanted);
  room = rooms.get(next.topic) ?? next;
  rooms.set(room.topic, room);
  stop = live.subscribe(room.topic, handlersOf(room));
  showRoom();
}

function handlersOf(its) {
  const handlers = {
    history: (data) => {
      me = data.you;
      log.add(its.catchUp(data), me);
      for (const message of its.pending.values()) sendMessage(its.topic, message);
    },
    message: (data) => {
      if (!its.add(data)) return;
      log.add([data], me);
      countUnseen(data);
    },
    people: (data) => {
      its.people = data.people;
      its.count = data.count;
      showPeople();
    },
    refused: ({ key, reason }) => {
      its.refuse(key);
      log.refuse(key, reason);
    },
  };
  return (data) => handlers[data.type]?.(data);
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
  notify("");
  const message = room.write(text, name);
  log.addPending(message);
  sendMessage(room.topic, message);
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

// A message is pending until it comes back from the server. What still is when
// the page has caught up after a reconnect is sent again; if the server has it
// already, it knows it by its key.
function sendMessage(topic, { text, key }) {
  if (live.state === "open") live.publish(topic, { text, key });
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
  if (live.state === "open") live.send("rename", { name });
});

function rename(wanted) {
  wanted = wanted.replace(/\s+/g, " ").trim();
  $("name").value = wanted || name;
  if (!wanted || wanted === name) return;
  name = wanted;
  saveName(name);
  if (live.state === "open") live.send("rename", { name });
  announce(`You are now called ${name}.`);
}

// Who is here, and the build.

function showPeople() {
  $("count").textContent = $("here").textContent = room.count;
  $("people").replaceChildren(...room.people.map(personItem));
  if (room.count > room.people.length) {
    $("people").append(element("li", "more", `and ${room.count - room.people.length} more`));
  }
}

function personItem(person) {
  const item = element("li");
  const text = element("span", "name");
  text.append(element("bdi", "", person.name));
  item.append(avatar(person.person, person.name), text);
  if (person.person === me) item.append(element("span", "tag", "you"));
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
  showChip();
  if (state === "open") announce(lost ? "Connected again." : "");
  if (state === "waiting" && !lost) announce("The connection is lost. Reconnecting.");
  if (state === "closed") announce("The connection has ended. Reload the page to connect again.");
  if (state !== "connecting") lost = state !== "open";
}

function showChip() {
  const state = live.state !== "open" && !navigator.onLine ? "offline" : live.state;
  const seconds = Math.ceil((live.retryIn ?? 0) / 1000);
  const texts = {
    connecting: lost ? "Reconnecting…" : "Connecting…",
    open: "Connected",
    waiting: `Reconnecting in ${seconds} s`,
    offline: "Offline",
    closed: "Disconnected",
  };
  $("chip").dataset.state = state;
  $("chip-text").textContent = texts[state];
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

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function announce(text) {
  $("announce").textContent = text;
}
