// In a page, the browser's own WebSocket fits the client's option.
import { connect } from "livetopic";

export const live = connect(location.pathname, { WebSocket });
live.on("state", ({ state }) => {
  document.title = state;
});
