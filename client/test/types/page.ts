// In a page: the browser's own WebSocket is one that the client takes.
import { connect } from "livetopic";

export const live = connect(location.pathname, { WebSocket });
live.on("state", ({ state }) => {
  document.title = state;
});
