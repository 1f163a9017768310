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
    // What a browser, a worker and Node share; the page's own globals are asked for by name, and may be missing.
    files: ["live.js"],
    languageOptions: { globals: { ...globals["shared-node-browser"], document: "readonly" } },
  },
  {
    files: ["test/**", "scripts/**", "eslint.config.js"],
    languageOptions: { globals: globals.node },
  },
];
