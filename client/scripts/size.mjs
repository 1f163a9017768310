// Prints how many bytes a browser downloads for the client, and fails if they are over a limit: the client must stay small.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 9030; // 1,000 of them for presence

const source = readFileSync(new URL("../live.js", import.meta.url));
const size = gzipSync(source, { level: 9 }).length;

console.log(`live.js: ${source.length} bytes, ${size} gzipped (limit ${LIMIT})`);
if (size > LIMIT) process.exitCode = 1;
