// Stands for live.js of the snippets in docs/javascript.md. The page's address says who the user is.
import { connect } from "livetopic";

export const live = (window.live = connect("/live" + location.search));
