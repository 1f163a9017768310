// What a person can try out, as far as the inspector's Options allow it.
import { post } from "./api.js";
import { byId, make, setText, show } from "./dom.js";

const tools = {
  publish: ({ topic, key, id, data }) => post("publish", { topic, key, id, data }),
  slow: ({ topic }) => post("slow", { topic }),
  drain: () => post("drain", {}),
};

export class Tools {
  constructor() {
    for (const [id, run] of Object.entries(tools)) this.#prepare(byId(id), run);
  }

  #prepare(form, run) {
    const output = form.querySelector("output");
    form.querySelector("h3").after(make("p", { className: "off", hidden: true }, `Off. To use it, set ${form.dataset.option} in the inspector's Options.`));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      setText(output, "");
      try {
        output.dataset.tone = "good";
        setText(output, await run(Object.fromEntries(new FormData(form))));
      } catch (error) {
        output.dataset.tone = "bad";
        setText(output, error.message);
      }
    });
  }

  /** Shows the tools that are allowed. */
  set allowed(allow) {
    for (const id of Object.keys(tools)) {
      const form = byId(id);
      const off = !allow[form.dataset.allow];
      show(form.querySelector(".off"), off);
      for (const field of form.elements) field.disabled = off;
    }
  }

  /** Puts a topic into the field of a tool. */
  fill(id, topic) {
    byId(id).elements.topic.value = topic;
    byId(id).elements.topic.focus();
  }
}
