import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    rules: {
      "eqeqeq": "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-shadow": "error",
    },
  },
  {
    // live.js may use the globals that browsers, workers and Node share, and document, which may be missing.
    files: ["live.js"],
    languageOptions: { globals: { ...globals["shared-node-browser"], document: "readonly" } },
  },
  {
    files: ["stores.js", "views.js", "react.js", "vue.js", "svelte.js"],
    languageOptions: { globals: globals["shared-node-browser"] },
  },
  {
    files: ["element.js"],
    languageOptions: { globals: globals.browser },
  },
  {
    files: ["test/**", "scripts/**", "eslint.config.js"],
    ignores: ["test/browser/apps/**"],
    languageOptions: { globals: globals.node },
  },
  {
    files: ["test/browser/apps/**"],
    languageOptions: { globals: globals.browser },
  },
];
