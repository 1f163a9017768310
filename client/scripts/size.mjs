// Prints how many bytes a browser downloads for each file, and fails if they are over a limit: the client must stay small.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMITS = {
  "live.js": 9200, // 1,000 of them for presence; 120 so that callers with and without onState may share a topic; 50 so that nothing is published twice
  "stores.js": 1000, // react.js, vue.js and svelte.js need this and the next one
  "views.js": 1170, // 40 of them for limits that are wrong; 130 so that no message comes after newer ones
  "react.js": 1000,
  "vue.js": 1000,
  "svelte.js": 1000,
  "element.js": 4460, // 300 of them for attributes whose values are wrong; 160 so that no message comes after newer ones
};

for (const [name, limit] of Object.entries(LIMITS)) {
  const source = readFileSync(new URL("../" + name, import.meta.url));
  const size = gzipSync(source, { level: 9 }).length;
  console.log(`${name}: ${source.length} bytes, ${size} gzipped (limit ${limit})`);
  if (size > limit) process.exitCode = 1;
}
