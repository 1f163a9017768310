import { mount } from "svelte";
import App from "./App5.svelte";

mount(App, { target: document.body });
