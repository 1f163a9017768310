// The tabs, which work as https://www.w3.org/WAI/ARIA/apg/patterns/tabs/ says. The chosen one is in the address.
import { byId, show } from "./dom.js";

export class Tabs {
  #tabs = [...document.querySelectorAll('[role="tab"]')];
  #onChange;
  chosen = "";

  constructor(onChange) {
    this.#onChange = onChange;
    for (const tab of this.#tabs) {
      tab.addEventListener("click", () => this.choose(nameOf(tab)));
      tab.addEventListener("keydown", (event) => this.#key(event, tab));
    }
    const first = this.#tabs.map(nameOf).find((name) => `#${name}` === location.hash);
    this.choose(first ?? "sessions");
  }

  /** Chooses a tab by its name. */
  choose(name) {
    if (name === this.chosen) return;
    this.chosen = name;
    for (const tab of this.#tabs) {
      const selected = nameOf(tab) === name;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      if (selected) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
      show(byId(tab.getAttribute("aria-controls")), selected);
    }
    history.replaceState(null, "", `#${name}`);
    this.#onChange(name);
  }

  #key(event, tab) {
    const at = this.#tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.#tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = this.#tabs[(to + this.#tabs.length) % this.#tabs.length];
    this.choose(nameOf(next));
    next.focus();
  }
}

const nameOf = (tab) => tab.id.replace("tab-", "");
