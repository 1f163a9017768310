import { connect } from "/live.js";

const ul = document.querySelector("#tasks");
const status = document.querySelector("#status");
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
async function save(task) {
  mine.set(task.id, task);
  show();
  let failed = "";
  try {
    const answer = await fetch("/tasks", { method: "POST", body: JSON.stringify(task) });
    if (answer.ok) apply(await answer.json());
    else failed = await answer.text();
  } catch {
    failed = "The server cannot be reached.";
  }
  status.textContent = failed;
  if (mine.get(task.id) === task) mine.delete(task.id); // it was not changed again meanwhile
  show();
}

function show() {
  const all = new Map([...tasks, ...mine]);
  ul.replaceChildren(...[...all.values()].filter((task) => !task.deleted).map(line));
}

function line(task) {
  const li = document.createElement("li");
  li.classList.toggle("done", task.done);
  li.classList.toggle("pending", mine.has(task.id));
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: task.done, ariaLabel: "Done" });
  box.onchange = () => save({ ...task, done: box.checked });
  const text = Object.assign(document.createElement("span"), { textContent: task.text });
  const by = Object.assign(document.createElement("small"), { textContent: task.by ?? "" });
  const remove = Object.assign(document.createElement("button"), { textContent: "✕", ariaLabel: `Delete ${task.text}` });
  remove.onclick = () => save({ ...task, deleted: true });
  li.append(box, text, by, remove);
  return li;
}

document.querySelector("#add").onsubmit = (event) => {
  event.preventDefault();
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  save({ id, text: event.target.text.value, done: false });
  event.target.reset();
};

replace(JSON.parse(ul.dataset.state));
ul.ariaBusy = "false";
live.subscribe("tasks", apply, { since: ul.dataset.since, onState: replace });
live.on("state", ({ state }) => (status.textContent = state === "open" ? "" : "Connecting …"));
