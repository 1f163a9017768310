// Bundles the apps of apps/ with the components of docs/javascript.md, as a user's bundler does.
import { build } from "esbuild";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { blocksOf, named } from "../snippets.mjs";

const PAGE = "docs/javascript.md";
const apps = fileURLToPath(new URL("apps", import.meta.url));

/** Svelte 4 has the template of the component for Svelte 5 with a script of its own. */
function room4() {
  const script = blocksOf(PAGE, "svelte").find((code) => code.startsWith("<!-- Svelte 4 -->"));
  return named(PAGE, "Room.svelte").replace(/<script>.*<\/script>/s, () => script);
}

const compilers = {
  jsx: (code) => ({ contents: code, loader: "jsx" }),

  async vue(code, name) {
    const { compileScript, parse } = await import("vue/compiler-sfc");
    const { descriptor } = parse(code, { filename: name });
    return { contents: compileScript(descriptor, { id: name, inlineTemplate: true }).content };
  },

  async svelte(code, name, svelte) {
    const { compile } = await import(svelte + "/compiler");
    return { contents: compile(code, { filename: name }).js.code };
  },
};

/** Returns an app as a script. svelte is the name of Svelte's package. */
export async function bundle(app, svelte = "svelte") {
  const snippets = {
    name: "snippets",
    setup({ onLoad, onResolve }) {
      onResolve({ filter: /^docs:/ }, ({ path }) => ({ path: path.slice(5), namespace: "docs" }));
      onResolve({ filter: /^\.\/live\.js$/, namespace: "docs" }, () => ({ path: apps + "/live.js" }));
      onLoad({ filter: /./, namespace: "docs" }, async ({ path }) => {
        const code = path === "Room4.svelte" ? room4() : named(PAGE, path);
        return { ...(await compilers[path.split(".").at(-1)](code, path, svelte)), resolveDir: apps };
      });
      onLoad({ filter: /\.svelte$/ }, ({ path }) => compilers.svelte(readFileSync(path, "utf8"), path, svelte));
    },
  };
  const { outputFiles } = await build({
    entryPoints: [`${apps}/${app}`],
    bundle: true,
    write: false,
    format: "iife",
    jsx: "automatic",
    logLevel: "error",
    define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
    conditions: ["browser", "development"],
    alias: svelte === "svelte" ? {} : { svelte },
    plugins: [snippets],
  });
  return outputFiles[0].text;
}
