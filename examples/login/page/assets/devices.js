// The list of devices, as it changes.

import { connect } from "/live.js";

const $ = (id) => document.getElementById(id);
const { topic, here } = document.body.dataset;
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The code with which the server says that this session has ended, and not only its line. */
const REVOKED = 4001;

const live = connect("/live");
live.on("state", showLine);
live.subscribe(topic, showDevices, { last: 1 });

for (const time of document.querySelectorAll("time")) time.textContent = clock.format(new Date(time.dateTime));

function showLine({ state, code }) {
  const words = { connecting: "Connecting…", open: "Live", waiting: "Reconnecting…", closed: "Disconnected" };
  $("line").dataset.state = state;
  $("line").textContent = words[state];
  if (state === "closed" && code === REVOKED) leave();
}

/** Shows nothing any more that is for those who are signed in. */
function leave() {
  for (const part of document.querySelectorAll("header, main")) part.remove();
  $("ended").hidden = false;
  document.title = "Signed out";
}

function showDevices(list) {
  const known = new Map([...$("devices").children].map((item) => [item.dataset.id, item]));
  const items = list.map((device) => known.get(device.id) ?? newItem(device));
  for (const [at, item] of items.entries()) {
    item.querySelector(".details .tabs")?.remove();
    item.querySelector(".details").append(element("span", "tabs", tabs(list[at].tabs)));
  }
  // What stays is not moved, so that it keeps the focus.
  for (const [id, item] of known) if (!list.some((device) => device.id === id)) item.remove();
  for (const [at, item] of items.entries()) {
    if ($("devices").children[at] !== item) $("devices").insertBefore(item, $("devices").children[at] ?? null);
  }
}

function newItem({ id, name, since }) {
  const item = element("li");
  item.dataset.id = id;
  const title = element("p", "device");
  title.append(element("span", "device-name", name));
  if (id === here) title.append(" ", element("span", "tag", "this device"));
  const time = element("time", "", clock.format(new Date(since)));
  time.dateTime = since;
  const details = element("p", "details", "since ");
  details.append(time);
  item.append(title, details);
  if (id !== here) item.append(endForm(id, name));
  return item;
}

function endForm(id, name) {
  const form = element("form");
  form.method = "post";
  form.action = `/devices/${id}/logout`;
  const button = element("button", "", "Sign out");
  button.setAttribute("aria-label", `Sign out ${name}`);
  form.append(button);
  return form;
}

const tabs = (count) => (count ? `, ${count} open ${count === 1 ? "tab" : "tabs"}` : "");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
