import { createApp, h, ref } from "vue";
import Room from "docs:Room.vue";
import Scores from "docs:Scores.vue";

const topic = ref("room:a");
const shown = ref(true);
window.setTopic = (value) => (topic.value = value);
window.setShown = (value) => (shown.value = value);

const room = (id) => h("div", { id }, h(Room, { topic: topic.value }));
createApp({ render: () => shown.value && [room("first"), room("second"), h(Scores)] }).mount(
  document.body.appendChild(document.createElement("div")),
);
