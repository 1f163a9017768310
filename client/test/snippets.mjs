// The code blocks of a page of docs/.
import { readFileSync } from "node:fs";

/** Returns the blocks of a language, in order. */
export function blocksOf(path, language) {
  const text = readFileSync(new URL("../../" + path, import.meta.url), "utf8");
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].filter(([, name]) => name === language).map(([, , code]) => code);
}

/** Returns the block that names itself in its first line, as in "// Room.jsx". */
export function named(path, name) {
  const found = blocksOf(path, name.split(".").at(-1)).filter((code) => code.startsWith(`// ${name}\n`) || code.startsWith(`<!-- ${name} -->\n`));
  if (found.length !== 1) throw new Error(`${path} has ${found.length} blocks that are called ${name}`);
  return found[0];
}
