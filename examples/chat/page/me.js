// Who writes: a name, kept by the browser for all tabs.

const KEY = "chat.name";

const HOW = ["Brisk", "Calm", "Clever", "Curious", "Gentle", "Jolly", "Keen", "Lucky", "Merry", "Nimble", "Quiet", "Sunny"];
const WHO = ["Badger", "Crane", "Dolphin", "Falcon", "Finch", "Gecko", "Heron", "Lynx", "Marten", "Otter", "Panda", "Robin"];

/** The name of last time, or a new one. */
export function loadName() {
  const name = read() ?? `${pick(HOW)} ${pick(WHO)}`;
  saveName(name);
  return name;
}

export function saveName(name) {
  try {
    localStorage.setItem(KEY, name);
  } catch {
    // The browser keeps nothing for this page: the name lasts as long as the tab.
  }
}

/** Calls fn with the new name when another tab changes it. */
export function onNameChanged(fn) {
  addEventListener("storage", (event) => {
    if (event.key === KEY && event.newValue) fn(event.newValue);
  });
}

function read() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function pick(list) {
  return list[Math.floor(Math.random() * list.length)];
}
