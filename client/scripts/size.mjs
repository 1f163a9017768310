// The promise that the client stays small: what a browser downloads, and a limit that fails the build.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 7260;

const source = readFileSync(new URL("../live.js", import.meta.url));
const size = gzipSync(source, { level: 9 }).length;

console.log(`live.js: ${source.length} bytes, ${size} gzipped (limit ${LIMIT})`);
if (size > LIMIT) process.exitCode = 1;
