// The package as others get it from npm: packed, installed, imported, compiled and bundled.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { LiveServer } from "./server.mjs";
import { blocksOf, named } from "./snippets.mjs";

const run = promisify(execFile);
const client = fileURLToPath(new URL("..", import.meta.url));
const { version } = JSON.parse(readFileSync(join(client, "package.json"), "utf8"));

/** Prints the newest message of a topic, and ends. */
const PROGRAM = `
import { connect } from "livetopic";
import { useTopic } from "livetopic/svelte";
import "livetopic/element"; // does nothing without a page
import { WebSocket } from "ws";

const live = connect(process.argv[2], { WebSocket });
useTopic(live, "news", { last: 1 }).subscribe(({ newest, ready }) => {
  if (!ready) return;
  console.log(newest.data);
  live.close();
});
`;

let folder, packed, server;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "livetopic-"));
  // An installation needs no registry: the package has no dependency, and its peers are optional.
  const npm = (...args) => run("npm", [...args, "--offline", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: folder, env: { ...process.env, npm_config_cache: join(folder, "cache") } });
  const { stdout } = await npm("pack", client, "--json");
  [packed] = Object.values(JSON.parse(stdout));
  writeFileSync(join(folder, "package.json"), '{"private": true, "type": "module"}');
  await npm("install", "./" + packed.filename);
  mkdirSync(join(folder, "node_modules/@types"));
  for (const name of ["react", "vue", "svelte", "ws", "@types/react"]) {
    symlinkSync(join(client, "node_modules", name), join(folder, "node_modules", name));
  }
  writeFileSync(join(folder, "program.js"), PROGRAM);
  server = await LiveServer.start();
  server.publish("news", "hello");
});

after(async () => {
  await server?.close();
  rmSync(folder, { recursive: true, force: true });
});

test("it has the modules, their types, a licence and a page, and nothing else", () => {
  const modules = ["live", "element", "react", "vue", "svelte"].flatMap((name) => [`${name}.js`, `${name}.d.ts`]);
  const all = [...modules, "stores.js", "views.js", "hooks.d.ts", "package.json", "README.md", "LICENSE"];
  assert.deepEqual(packed.files.map(({ path }) => path).sort(), all.sort());
  assert.equal(packed.version, version);
});

test("Node imports it", async () => {
  const { stdout } = await run(process.execPath, ["program.js", server.url], { cwd: folder });
  assert.equal(stdout, "hello\n");
});

test("no module is larger than docs/javascript.md says", () => {
  const gzipped = (name) => gzipSync(readFileSync(join(client, name + ".js")), { level: 9 }).length;
  const page = readFileSync(join(client, "../docs/javascript.md"), "utf8");
  const rows = [...page.matchAll(/^\| `livetopic\/?(\w*)` \| .* \| (\d+) KB \|$/gm)];
  assert.deepEqual(rows.map(([, name]) => name), ["", "react", "vue", "svelte", "element"]);
  for (const [, name, most] of rows) {
    const shared = /^(react|vue|svelte)$/.test(name) ? gzipped("stores") + gzipped("views") : 0;
    assert.ok(Math.round((gzipped(name || "live") + shared) / 1000) <= most, name);
  }
});

describe("its types", () => {
  for (const name of ["react.tsx", "vue.ts", "svelte.ts", "element.ts", "sample.ts", "topics.ts"]) {
    before(() => cpSync(fileURLToPath(new URL("types/" + name, import.meta.url)), join(folder, name)));
  }
  for (const [resolution, module] of [["bundler", "esnext"], ["node16", "node16"]]) {
    test(`are right under --strict and moduleResolution ${resolution}`, async () => {
      const flags = ["--ignoreConfig", "--noEmit", "--strict", "--exactOptionalPropertyTypes", "--types", "", "--jsx", "react-jsx"];
      const target = ["--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--module", module, "--moduleResolution", resolution];
      const tsc = join(client, "node_modules/typescript/bin/tsc");
      const files = ["react.tsx", "vue.ts", "svelte.ts", "element.ts", "sample.ts", "topics.ts"];
      await run(process.execPath, [tsc, ...flags, ...target, ...files], { cwd: folder }).catch(({ stdout }) => assert.fail(stdout));
    });
  }

  test("know the snippets of docs/javascript.md", async () => {
    const [declared] = blocksOf("docs/javascript.md", "ts");
    writeFileSync(join(folder, "live.ts"), declared);
    const use = 'import { live } from "./live.js";\nlive.subscribe("room:1", ({ text }) => text.length);\n// @ts-expect-error\nlive.publish("votes", 1);';
    writeFileSync(join(folder, "use.ts"), use);
    const basics = "declare const add: (item: unknown) => void, fetchAll: () => void, show: (state: string) => void;\n";
    writeFileSync(join(folder, "basics.ts"), basics + named("docs/javascript.md", "basics.js"));
    const tsc = join(client, "node_modules/typescript/bin/tsc");
    const flags = ["--ignoreConfig", "--noEmit", "--strict", "--types", "", "--target", "es2022", "--module", "node16"];
    await run(process.execPath, [tsc, ...flags, "use.ts", "basics.ts"], { cwd: folder }).catch(({ stdout }) => assert.fail(stdout));
  });
});

/** Bundles a program that others write, and returns the text. */
async function bundled(contents, options) {
  const stdin = { contents, resolveDir: folder, loader: "jsx" };
  const { outputFiles } = await build({ stdin, bundle: true, write: false, format: "esm", jsx: "automatic", logLevel: "error", ...options });
  return outputFiles[0].text;
}

describe("a bundle", () => {
  test("runs", async () => {
    const banner = { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' }; // for ws
    writeFileSync(join(folder, "bundle.js"), await bundled(PROGRAM, { platform: "node", minify: true, banner }));
    rmSync(join(folder, "node_modules/ws"));
    const { stdout } = await run(process.execPath, ["bundle.js", server.url], { cwd: folder });
    assert.equal(stdout, "hello\n");
  });

  test("has only what is imported and used", async () => {
    const alone = await bundled('import { connect } from "livetopic"; connect("/live");', { minify: true });
    assert.ok(alone.includes("live.v1") && !alone.includes("live-topic") && !alone.includes("useSyncExternalStore"));
    const unused = await bundled('import { useTopic } from "livetopic/svelte"; import { connect } from "livetopic"; import { LiveError } from "livetopic";');
    assert.equal(unused.trim(), "");
    assert.match(await bundled('import "livetopic/element";'), /define\("live-topic"/);
  });

  test("has the components of its page", async () => {
    const [component] = blocksOf("client/README.md", "jsx");
    writeFileSync(join(folder, "live.js"), blocksOf("docs/javascript.md", "js").find((code) => code.startsWith("// live.js")));
    const text = await bundled(component, { external: ["react", "react/jsx-runtime"] });
    assert.match(text, /useSyncExternalStore/);
    assert.doesNotMatch(text, /live-topic/);
  });
});
