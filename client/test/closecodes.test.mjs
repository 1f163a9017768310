// What live.js does after each close code is what the table of the Go code says: live/internal/closecode writes closecodes.json.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setUp, startV1 } from "./fakes.mjs";

const outside = setUp();
const rows = JSON.parse(readFileSync(new URL("closecodes.json", import.meta.url), "utf8"));

/** What the client does when its connection is closed, while a publication has no answer. */
function doesAfter(code, reason) {
  const client = startV1(outside);
  client.live.publish("topic", 1, { timeout: Infinity }).catch(() => {});
  client.socket.end(code, reason);
  const { state, retryIn: bound = 0 } = client.live;
  if (state === "waiting") {
    outside.clock.advance(bound);
    client.socket.greet();
  }
  const resends = state === "waiting" && client.socket.sent.flat().some(({ op }) => op === "publish");
  client.live.close();
  return { state, bound, resends };
}

test("every close code has the effect that the table says", () => {
  assert.ok(rows.length > 50);
  for (const { from, to, reason, does, resends, bound } of rows) {
    for (const code of new Set([from, (from + to) >> 1, to])) {
      const state = does === "stop" ? "closed" : "waiting";
      assert.deepEqual(doesAfter(code, reason), { state, bound, resends }, `${code} "${reason}"`);
    }
  }
});

test("every code is in the table, with each of its reasons", () => {
  for (const reason of new Set(rows.map((row) => row.reason))) {
    let next = 1000;
    for (const { from, to } of rows.filter((row) => row.reason === reason)) {
      assert.equal(from, next);
      next = to + 1;
    }
    assert.equal(next, 5000);
  }
});
