// A table whose rows the server searches, sorts and cuts into pages of a hundred.
import { get } from "./api.js";
import { count, make, plural, setText, show, visible } from "./dom.js";

/** How long to wait after a key before the server is asked, in ms. */
const TYPING = 250;

/**
 * A table in a panel. Options:
 *   panel    the element that it is put into
 *   source   what the server is asked for
 *   noun     what a row is
 *   title    of the table, for screen readers
 *   columns  {id, label, number, wide, sorts, firstOrder, fill(cell, row, all)}: sorts says that the server can sort by it,
 *            firstOrder is "descending" if the largest should come first, wide hides it on a phone
 *   sort     the column by which it is sorted at first
 *   key      the member of a row that names it
 *   search   the label of the search field
 *   empty    what to say if there are no rows
 *   parameters  a function that returns more parameters for the server; may be missing
 *   onData   is called with each answer; may be missing
 */
export class Table {
  #options;
  #rows = new Map(); // key → {row, tr}
  #heads = new Map(); // column id → its th
  #body = make("tbody");
  #search;
  #empty = make("p", { className: "empty" });
  #note = make("p", { className: "note", role: "status" });
  #back = make("button", { type: "button" }, "Back");
  #next = make("button", { type: "button" }, "Next");
  #pager = make("div", { className: "pager" });
  #pageText = make("span", {});
  #page = 0;
  #sort;
  #descending;
  #typing;
  #asked = 0; // requests so far: only the answer to the newest counts

  constructor(options) {
    this.#options = options;
    const { panel, title, columns, search, sort } = options;
    this.#search = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#begin(), TYPING);
    });
    const heads = columns.map((column) => this.#headOf(column));
    this.#pager.append(this.#back, this.#pageText, this.#next);
    this.#back.addEventListener("click", () => this.#turn(-1));
    this.#next.addEventListener("click", () => this.#turn(1));
    panel.append(
      make("div", { className: "bar" }, make("label", { className: "grow" }, search, " ", this.#search), this.#note),
      make(
        "div",
        { className: "scroll" },
        make("table", {}, make("caption", { className: "unseen" }, title), make("thead", {}, make("tr", {}, ...heads)), this.#body),
        this.#empty,
      ),
      this.#pager,
    );
    show(this.#pager, false);
    this.#chooseSort(columns.find(({ id }) => id === sort));
  }

  #headOf(column) {
    const { id, label, number, wide, sorts } = column;
    const th = make("th", { className: classes({ number, wide }), scope: "col" });
    if (!sorts) {
      th.append(label);
      return th;
    }
    const arrow = make("span", { className: "arrow", "aria-hidden": "true" });
    const button = make("button", { type: "button", className: "sort" }, ...(number ? [arrow, label] : [label, arrow]));
    button.addEventListener("click", () => {
      this.#chooseSort(column);
      this.#begin();
    });
    th.append(button);
    this.#heads.set(id, th);
    return th;
  }

  /** Sorts by a column. If the table is sorted by it already, this turns the order. */
  #chooseSort({ id, firstOrder }) {
    this.#descending = this.#sort === id ? !this.#descending : firstOrder === "descending";
    this.#sort = id;
    for (const [column, th] of this.#heads) {
      if (column === id) th.setAttribute("aria-sort", this.#descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  }

  #turn(by) {
    this.#page += by;
    this.#askNow();
  }

  /** Shows the first page for a text, or again after the parameters have changed. */
  begin(searched = this.#search.value) {
    this.#search.value = searched;
    this.#begin();
  }

  #begin() {
    this.#page = 0;
    this.#askNow();
  }

  /** Asks at once, because the person has done something. */
  #askNow() {
    this.poll().catch((error) => setText(this.#note, error.status ? error.message : "The server does not answer."));
  }

  /** Asks the server, and shows what it answers. */
  async poll() {
    const { source, parameters, onData } = this.#options;
    const number = ++this.#asked;
    const answer = await get(source, {
      search: this.#search.value.trim(),
      sort: this.#sort,
      desc: this.#descending ? 1 : undefined,
      page: this.#page || undefined,
      ...parameters?.(),
    });
    if (number !== this.#asked) return;
    this.#page = answer.page;
    this.#draw(answer);
    onData?.(answer);
  }

  #draw({ rows, total, matched, page, pages }) {
    const focused = document.activeElement;
    const left = new Set(this.#rows.keys());
    rows.forEach((row, i) => {
      const key = String(row[this.#options.key]);
      left.delete(key);
      const tr = this.#rowOf(key, row, rows);
      if (this.#body.children[i] !== tr) this.#body.insertBefore(tr, this.#body.children[i] ?? null);
    });
    for (const key of left) {
      this.#rows.get(key).tr.remove();
      this.#rows.delete(key);
    }
    if (this.#body.contains(focused)) focused.focus({ preventScroll: true }); // its row may have moved
    const searches = matched !== total;
    const all = plural(total, this.#options.noun);
    setText(this.#note, searches ? `${count(matched)} of ${all}` : all);
    setText(this.#empty, rows.length ? "" : searches ? "Nothing is found." : this.#options.empty);
    show(this.#empty, !rows.length);
    show(this.#pager, pages > 1);
    setText(this.#pageText, `Page ${count(page + 1)} of ${count(pages)}`);
    this.#back.disabled = page === 0;
    this.#next.disabled = page === pages - 1;
  }

  /** Returns the tr of a row, with its cells filled. */
  #rowOf(key, row, all) {
    let known = this.#rows.get(key);
    if (!known) {
      const cells = this.#options.columns.map(({ number, wide }) => make("td", { className: classes({ number, wide }) }));
      known = { tr: make("tr", {}, ...cells) };
      this.#rows.set(key, known);
    }
    known.tr.dataset.key = key;
    this.#options.columns.forEach(({ fill }, i) => fill(known.tr.cells[i], row, all));
    return known.tr;
  }
}

const classes = (names) => Object.keys(names).filter((name) => names[name]).join(" ");

/** Returns a fill that shows a text. */
export const text = (say) => (cell, row) => setText(cell, say(row));

/** Returns a fill for the column that opens a row: a button with a name of a user, and a smaller text below it. */
export const opener = (open, name, below) => (cell, row) => {
  let button = cell.firstElementChild;
  if (!button) {
    button = make("button", { type: "button", className: "open" }, make("span", { className: "name" }), make("span", { className: "below" }));
    button.addEventListener("click", () => open(button.row));
    cell.append(button);
  }
  button.row = row;
  setText(button.firstChild, visible(name(row)));
  setText(button.lastChild, visible(below(row)));
};

/** Returns a fill that shows a text over a bar. The bar of the largest row is full. */
export const bar = (say, measure) => (cell, row, all) => {
  if (!cell.firstElementChild) cell.append(make("span", { className: "figure" }), make("span", { className: "track", "aria-hidden": "true" }, make("span", {})));
  setText(cell.firstElementChild, say(row));
  const most = Math.max(...all.map(measure), 0);
  const part = most ? Math.max(measure(row), 0) / most : 0;
  cell.lastElementChild.firstElementChild.style.width = `${(100 * part).toFixed(1)}%`;
};
