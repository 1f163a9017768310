// A line that can be cut, to see what the page does then: what a tunnel or a pulled cable does, at the press of a button.

const open = new Set();
let whole = true;

/** A WebSocket that breaks when the line is cut, and cannot be opened while it is. */
export class Line extends WebSocket {
  constructor(...where) {
    super(...where);
    open.add(this);
    this.addEventListener("close", () => open.delete(this));
    if (!whole) this.close();
  }
}

export function cutLine() {
  whole = false;
  for (const socket of open) socket.close();
}

export function mendLine() {
  whole = true;
}

export function isCut() {
  return !whole;
}
