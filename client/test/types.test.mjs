// The declarations are right, and need only the language itself.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as client from "livetopic";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

function compile(file, lib) {
  const flags = ["--ignoreConfig", "--noEmit", "--strict", "--exactOptionalPropertyTypes", "--types", ""];
  const target = ["--target", "es2022", "--module", "nodenext", "--lib", lib];
  const tsc = here("../node_modules/typescript/bin/tsc");
  const { status, stdout, stderr } = spawnSync(process.execPath, [tsc, ...flags, ...target, here(file)], { encoding: "utf8" });
  assert.equal(status, 0, stdout + stderr);
}

// Only URL comes from the platform. Pages and Node both declare it.
test("a program compiles under --strict", () => compile("types/sample.ts", "es2022,dom"));
test("declared topics are checked", () => compile("types/topics.ts", "es2022,dom"));
test("a page compiles under --strict", () => compile("types/page.ts", "es2022,dom"));

test("what is exported is what is declared", () => {
  assert.deepEqual(Object.keys(client).sort(), ["LiveClient", "LiveError", "connect"]);
});
