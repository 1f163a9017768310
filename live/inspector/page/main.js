// The page looks at the server every two seconds, and only while it can be seen.
import { get } from "./api.js";
import { Cards } from "./cards.js";
import { byId, bytes, count, make, quoted, rate, setParts, setText, show, span, visible } from "./dom.js";
import { Ends } from "./ends.js";
import { ALL, History, HOLE, POLL } from "./history.js";
import { Sessions } from "./sessions.js";
import { Tabs } from "./tabs.js";
import { Tail } from "./tail.js";
import { Tools } from "./tools.js";
import { Topics } from "./topics.js";

const figures = new History();
const cards = new Cards();
const tail = new Tail();
const tools = new Tools();
const sessions = new Sessions();
const ends = new Ends();
const topics = new Topics({
  "Follow it": (topic) => openTab("tail", () => tail.follow(topic)),
  "Show its sessions": (topic) => openTab("sessions", () => sessions.ofTopic(topic)),
  "Publish to it": (topic) => openTab("try", () => tools.fill("publish", topic)),
});
const panels = { sessions, topics, ends, tail };
const scope = byId("scope");

let paused = false;
let timer; // of the next look
let looking = false; // a look is under way
let lookAgain = false; // another look must follow it at once
let lastServer = ""; // id of the server that has answered last
let inTurn; // names of two servers that have answered in turn; undefined: one server has answered so far

/** Looks once if the page can be seen, and then sets the timer for the next look. */
async function look() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  if (looking) {
    lookAgain = true;
    return;
  }
  looking = true;
  const begun = performance.now();
  try {
    await lookAtFigures();
    await panels[tabs.chosen]?.poll();
    show(byId("trouble"), false);
  } catch (error) {
    trouble(error);
  }
  document.querySelector("main").ariaBusy = "false"; // what comes later moves nothing
  looking = false;
  const wait = lookAgain ? 0 : Math.max(POLL - (performance.now() - begun), 0);
  lookAgain = false;
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

async function lookAtFigures() {
  const answer = await get("figures");
  const self = answer.nodes.find((node) => node.self);
  figures.add(answer);
  sessions.now = ends.now = answer.now;
  sessions.allowed = answer.allow.close;
  tail.allowed = answer.allow.payloads;
  tools.allowed = answer.allow;
  drawHead(answer, self);
  drawScopes(answer.nodes);
  drawNodes(answer);
  drawCards();
}

function drawCards() {
  const of = scope.value || ALL;
  cards.draw(figures, of);
  setText(byId("window"), `The last ${span(figures.window(of))}`);
}

function trouble(error) {
  const refused = error.status !== undefined;
  setText(byId("trouble"), refused ? error.message : "The server does not answer. The page goes on asking.");
  show(byId("trouble"), true);
  setState("bad", refused ? "Refused" : "No answer");
}

function setState(tone, text) {
  byId("state").dataset.tone = tone;
  setText(byId("state-text"), text);
}

function drawHead({ now, library, program, go, notReady, nodes }, self) {
  setText(byId("node"), visible(self.name));
  document.title = `${visible(self.name)} – Live inspector`;
  if (self.draining) setState("warn", "Draining");
  else if (notReady) setState("bad", "Not ready");
  else setState("good", "Ready");
  byId("state").title = notReady;
  const facts = {
    "Up for": span(now - self.since),
    "Servers": nodes.length > 1 ? String(nodes.length) : "",
    "livetopic": library,
    "Program": program,
    "Built with": go,
    "Not ready": self.draining ? "" : notReady,
  };
  const list = byId("facts");
  for (const [name, value] of Object.entries(facts)) {
    let item = list.querySelector(`[data-fact="${name}"]`);
    if (!item) {
      item = make("div", { "data-fact": name }, make("dt", {}, name), make("dd", {}));
      list.append(item);
    }
    setText(item.lastChild, value);
    show(item, value !== "");
  }
}

/** Lets the person choose whose figures the cards show. */
function drawScopes(nodes) {
  const several = nodes.length > 1;
  show(byId("scope-label"), several);
  show(byId("only-here"), several);
  if (several) drawWhose(nodes);
  const wanted = [[ALL, `all ${nodes.length} servers`], ...nodes.map(({ id, name, self }) => [id, visible(name) + (self ? " (this one)" : "")])];
  if (JSON.stringify(wanted) === JSON.stringify([...scope.options].map((option) => [option.value, option.text]))) return;
  const chosen = scope.value;
  scope.replaceChildren(...wanted.map(([value, label]) => make("option", { value }, label)));
  scope.value = wanted.some(([value]) => value === chosen) ? chosen : ALL;
}

/** Says whose the tables are. Behind a load balancer each answer may come from another server, and the tables change all the time. */
function drawWhose(nodes) {
  const self = nodes.find((node) => node.self);
  const before = nodes.find((node) => node.id === lastServer && node !== self);
  if (before) inTurn = [before.name, self.name].sort();
  lastServer = self.id;
  const whose = inTurn
    ? ["Several servers answer this page in turn, such as ", quoted(inTurn[0]), " and ", quoted(inTurn[1]), ". So the tables change with each look. Open the inspector at the address of one server."]
    : ["These tables are of this server, ", quoted(self.name), ". Open the inspector of another server to see what it has."];
  setParts(byId("only-here"), ...whose);
  byId("only-here").dataset.tone = inTurn ? "warn" : "faint";
}

function drawNodes({ now, nodes }) {
  show(byId("nodes"), nodes.length > 1);
  if (nodes.length < 2) return;
  const lines = nodes.map(({ id, name, self, draining, since, silentFor, stats }) => {
    const quiet = silentFor > HOLE;
    const state = draining ? ["warn", "Draining"] : quiet ? ["warn", `Heard ${span(silentFor)} ago`] : ["good", "Ready"];
    if (!draining && !quiet && stats.NotReady) state.splice(0, 2, "bad", "Not ready");
    const number = (value, more = "") => make("td", { className: `number ${more}` }, value);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, quoted(name), ...(self ? [" ", make("span", { className: "tag" }, "this one")] : [])),
      make("td", {}, make("span", { className: "pill", "data-tone": state[0] }, state[1])),
      number(span(now - since), "wide"),
      number(count(stats.Sessions)),
      number(`${rate(figures.newest(id, "delivered"))}/s`),
      number(`${rate(figures.newest(id, "published"))}/s`),
      number(bytes(stats.WaitingBytes ?? 0)),
      number(count(stats.CatchingUp)),
    );
  });
  byId("nodes").querySelector("tbody").replaceChildren(...lines);
}

function openTab(name, act) {
  tabs.choose(name);
  byId(`tab-${name}`).focus();
  act();
}

scope.addEventListener("change", drawCards);

byId("pause").addEventListener("click", () => {
  paused = !paused;
  setText(byId("pause"), paused ? "Go on" : "Pause");
  look();
});

document.addEventListener("visibilitychange", look);

const tabs = new Tabs(() => queueMicrotask(look));
