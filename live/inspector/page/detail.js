// The window that shows one row with all that is known about it.
import { byId, make, visible } from "./dom.js";

const dialog = byId("detail");

byId("detail-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the window
});

/** Opens the window. The title may be a name. When it closes, the focus goes back to where it was. */
export function openDetail(title, ...content) {
  byId("detail-title").textContent = visible(title);
  byId("detail-body").replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
  byId("detail-title").focus();
}

/** Closes the window. */
export const closeDetail = () => dialog.close();

/** A list of names and values. Values that are undefined are left out. */
export function facts(values) {
  const list = make("dl", { className: "facts" });
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  }
  return list;
}
