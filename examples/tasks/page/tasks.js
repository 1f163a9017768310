import { connect } from "/live.js";

const ul = document.querySelector("#tasks");
const say = (id, text) => (document.getElementById(id).textContent = text);
const live = connect("/live");

let tasks = new Map(); // by id, as the server has them
let rev = 0; // the state has every change up to this one
const mine = new Map(); // changes of this page that the server has not confirmed, by id

function replace(state) {
  tasks = new Map(state.tasks.map((task) => [task.id, task]));
  rev = state.rev;
  show();
}

/** Publications may come in another order than the database has made them. */
function apply(task) {
  if (task.rev <= rev || task.rev <= tasks.get(task.id)?.rev) return;
  tasks.set(task.id, task); // a deleted one stays, so that an older change does not bring it back
  show();
}

/** Shows a change at once, and takes it back if the server refuses it. */
function save(task) {
  mine.set(task.id, task);
  show();
  return send(task);
}

/** If the server cannot be reached, the change is sent again after five seconds, or when the connection is back. It may be stored twice without harm. */
async function send(task) {
  let failed = "";
  try {
    const answer = await fetch("/tasks", { method: "POST", body: JSON.stringify(task) });
    if (answer.ok) apply(await answer.json());
    else failed = await answer.text();
  } catch {
    setTimeout(() => live.state === "open" && mine.get(task.id) === task && send(task), 5000);
    return;
  }
  say("problem", failed && `Not saved: ${failed}`);
  if (mine.get(task.id) === task) mine.delete(task.id); // it was not changed again meanwhile
  show();
}

function show() {
  const all = new Map([...tasks, ...mine]);
  const focused = document.activeElement?.dataset.focus; // a change that comes must not take the focus away
  ul.replaceChildren(...[...all.values()].filter((task) => !task.deleted).map(line));
  if (focused) ul.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function line(task) {
  const li = document.createElement("li");
  li.classList.toggle("done", task.done);
  li.classList.toggle("pending", mine.has(task.id));
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: task.done, ariaLabel: `Done: ${task.text}` });
  box.dataset.focus = "done " + task.id;
  box.onchange = () => save({ ...task, done: box.checked });
  const text = Object.assign(document.createElement("span"), { textContent: task.text });
  const by = Object.assign(document.createElement("small"), { textContent: task.by ?? "" });
  const remove = Object.assign(document.createElement("button"), { textContent: "✕", ariaLabel: `Delete ${task.text}` });
  remove.dataset.focus = "delete " + task.id;
  remove.onclick = () => save({ ...task, deleted: true });
  li.append(box, text, by, remove);
  return li;
}

document.querySelector("#add").onsubmit = (event) => {
  event.preventDefault();
  const text = event.target.text.value.trim();
  if (!text) return;
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  save({ id, text, done: false });
  event.target.reset();
};

replace(JSON.parse(ul.dataset.state));
live.subscribe("tasks", apply, { since: ul.dataset.since, onState: replace });
live.on("state", ({ state }) => {
  say("state", { open: "Connected", closed: "You have been signed out. Load the page again." }[state] ?? "Connecting …");
  if (state === "open") for (const task of mine.values()) send(task);
});
