import App from "./App4.svelte";

new App({ target: document.body });
