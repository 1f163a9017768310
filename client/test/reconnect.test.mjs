// When the client comes back, and when it does not.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FakeSocket, setUp, settled, start, startOpen } from "./fakes.mjs";

const outside = setUp();

describe("the delay before a retry", () => {
  test("is drawn from the whole range, from the first retry on", () => {
    for (const r of [0, 0.25, 0.5, 0.998]) {
      const client = start(outside, { random: () => r });
      client.socket.end();
      assert.equal(client.last("state").retryIn, 500 * r);
    }
  });

  test("spreads clients that fell together evenly", () => {
    const quarters = [0, 0, 0, 0];
    for (let i = 0; i < 2000; i++) {
      const client = start(outside, { random: undefined });
      client.socket.end();
      const { retryIn } = client.last("state");
      assert.ok(retryIn >= 0 && retryIn <= 500, `${retryIn}`);
      quarters[Math.min(3, Math.floor(retryIn / 125))]++;
    }
    for (const count of quarters) assert.ok(count > 350 && count < 650, `${quarters}`);
  });

  test("doubles its range up to the cap, and is still spread there", () => {
    let r = 1;
    const client = start(outside, { random: () => r });
    const delays = [];
    for (let i = 0; i < 8; i++) {
      client.socket.end();
      delays.push(client.last("state").retryIn);
      outside.clock.advance(delays.at(-1));
    }
    assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);

    r = 0.3;
    client.socket.end();
    assert.equal(client.last("state").retryIn, 6000);
  });

  test("stays finite after a thousand retries", () => {
    const client = start(outside, { backoff: { max: 10 } });
    for (let i = 0; i < 1200; i++) {
      client.socket.end();
      outside.clock.advance(10);
    }
    client.socket.end();
    assert.equal(client.last("state").retryIn, 10);
  });

  test("follows the options", () => {
    const client = start(outside, { backoff: { min: 30, max: 50 } });
    client.socket.end();
    assert.equal(client.last("state").retryIn, 30);
    outside.clock.advance(30);
    client.socket.end();
    assert.equal(client.last("state").retryIn, 50);
  });

  test("keeps growing while connections open and die at once", () => {
    const client = start(outside);
    for (const expected of [500, 1000, 2000]) {
      client.socket.accept();
      outside.clock.advance(4999);
      client.socket.end();
      assert.equal(client.last("state").retryIn, expected);
      outside.clock.advance(expected);
    }
  });

  test("starts over after a connection that proved stable", () => {
    const client = start(outside);
    for (const ms of [500, 1000, 2000]) {
      client.socket.end();
      outside.clock.advance(ms);
    }
    client.socket.accept();
    assert.equal(client.last("state").attempt, 3);
    outside.clock.advance(5000);
    client.socket.end();
    assert.equal(client.last("state").retryIn, 500);
    assert.equal(client.last("state").attempt, 1);
  });
});

describe("what a close code means", () => {
  const window = "restart; return within 5000 ms";
  const table = [
    // code, reason, what the client does, random, delay
    [1000, "bye", "closed"],
    [1000, " ", "closed"],
    [1000, "\nbye", "closed"],
    [1000, "", "waiting", 1, 500], // a proxy's
    [1000, "", "waiting", 0.5, 250],
    [4000, "", "closed"],
    [4001, "not allowed", "closed"],
    [4003, "a newer session of the user took its place", "closed"],
    [4099, "", "closed"],

    [1012, window, "waiting", 1, 5000],
    [1012, window, "waiting", 0.25, 1250],
    [1013, "overloaded; return within 30000 ms", "waiting", 0.5, 15_000],
    [1012, "return within 3600000 ms", "waiting", 1, 60_000],
    [1012, "return within 99999999999999999999999999 ms", "waiting", 0.5, 30_000],
    [1012, "restart", "waiting", 1, 500],
    [1013, "", "waiting", 1, 500],
    [1012, "return within 0 ms", "waiting", 1, 500],
    [1012, "return within -5 ms", "waiting", 1, 500],

    [4200, "sign-in expired", "waiting", 1, 1000],
    [4200, "sign-in expired", "waiting", 0.25, 250],
    [4299, "", "waiting", 1, 1000],

    [1001, "", "waiting", 1, 500],
    [1005, "", "waiting", 1, 500],
    [1006, "", "waiting", 1, 500],
    [1008, "", "waiting", 1, 500],
    [1011, "", "waiting", 1, 500],
    [3999, "", "waiting", 1, 500],
    [4100, "queue full", "waiting", 1, 500],
    [4103, "too much waits for this user", "waiting", 1, 500],
    [4199, "", "waiting", 1, 500],
    [4300, "", "waiting", 1, 500],
    [1006, window, "waiting", 1, 500], // a window is named by 1012 and 1013 alone
  ];
  for (const [code, reason, state, random = 1, retryIn] of table) {
    test(`${code} "${reason}" at ${random}: ${state} ${retryIn ?? ""}`, () => {
      const client = startOpen(outside, { random: () => random });
      client.socket.end(code, reason);

      assert.equal(client.live.state, state);
      const event = client.last("state");
      assert.deepEqual([event.state, event.code, event.reason, event.retryIn], [state, code, reason, retryIn]);
      assert.deepEqual(client.names(), [state, "close"]);

      outside.clock.advance(120_000);
      assert.equal(client.sockets.length > 1, state === "waiting");
    });
  }

  test("4200 within a second, but once: a server that says it each time is backed off from", () => {
    const client = startOpen(outside);
    const delays = [];
    for (let i = 0; i < 3; i++) {
      client.socket.end(4200);
      delays.push(client.last("state").retryIn);
      outside.clock.advance(delays.at(-1));
      client.socket.accept();
    }
    assert.deepEqual(delays, [1000, 1000, 2000]);

    outside.clock.advance(5000);
    client.socket.end(4200);
    assert.equal(client.last("state").retryIn, 1000);
  });

  test("a final code leaves no timer behind and tells what was never sent", () => {
    const client = start(outside);
    client.live.send("chat", 1);
    client.live.send("chat", 2);
    client.socket.end(4001, "signed out");
    assert.equal(client.last("state").unsent, 2);
    assert.equal(outside.clock.timers, 0);
  });
});

describe("one socket", () => {
  test("that hangs while connecting is replaced", () => {
    const client = start(outside);
    const hung = client.socket;
    outside.clock.advance(9999);
    assert.equal(client.live.state, "connecting");
    outside.clock.advance(1);
    assert.deepEqual(client.last("state"), {
      state: "waiting",
      attempt: 1,
      retryIn: 500,
      code: 1006,
      reason: "connect timeout",
    });
    assert.ok(hung.closedWith, "the hung socket is closed");
    outside.clock.advance(500);
    assert.equal(client.sockets.length, 2);
    assert.equal(client.live.state, "connecting");
  });

  test("that hangs, and tells its end while it is being closed, is counted once", () => {
    class WebSocket extends FakeSocket {
      close() {
        this.end(1006);
      }
    }
    const client = start(outside, { WebSocket });
    outside.clock.advance(10_000);
    assert.deepEqual(client.names(), ["waiting"]);
    assert.equal(client.last("state").reason, "connect timeout");
  });

  test("that opened in time is not replaced", () => {
    const client = start(outside);
    outside.clock.advance(9999);
    client.socket.accept();
    outside.clock.advance(3_600_000);
    assert.equal(client.sockets.length, 1);
    assert.equal(client.live.state, "open");
  });

  test("no event of an old one is heard", () => {
    const client = start(outside);
    client.live.subscribe("news", (data) => client.heard.push(["news", data]));
    const old = client.socket;
    outside.clock.advance(10_500);
    client.socket.accept();
    client.heard.length = 0;

    old.accept();
    old.say("news", "late");
    old.end(1000, "over");
    assert.deepEqual(client.heard, []);
    assert.deepEqual(old.sent, []);
    assert.equal(client.live.state, "open");

    client.socket.say("news", "now");
    assert.deepEqual(client.heard.at(-1), ["news", "now"]);
  });

  test("at any moment: a second exists only after the first has ended", () => {
    const client = start(outside, { connectTimeout: 700 });
    const ends = [(s) => s.end(), (s) => s.end(1012, "return within 90 ms"), () => {}, (s) => (s.accept(), s.end())];
    for (let i = 0; i < 40; i++) {
      ends[i % ends.length](client.socket);
      for (const name of ["online", "focus"]) outside.page.fire(name);
      outside.clock.advance(800);
      const alive = client.sockets.filter((s) => s.readyState < 2);
      assert.ok(alive.length <= 1, `${alive.length} at round ${i}`);
    }
    assert.ok(client.sockets.length > 20);
  });

  test("that cannot be made at first is the caller's error, and leaves nothing behind", () => {
    class WebSocket {
      constructor() {
        throw new Error("blocked by policy");
      }
    }
    assert.throws(() => start(outside, { WebSocket }), /blocked by policy/);
    assert.equal(outside.clock.timers, 0);
  });

  test("that cannot be made when a window is over does not wait for that window again", () => {
    let blocked = false;
    class WebSocket extends FakeSocket {
      constructor(url) {
        if (blocked) throw new Error("blocked by policy");
        super(url);
        WebSocket.newest = this;
      }
    }
    const client = start(outside, { WebSocket });
    WebSocket.newest.end(1012, "return within 30000 ms");
    blocked = true;
    outside.clock.advance(30_000);
    assert.deepEqual([client.last("state").state, client.last("state").retryIn], ["waiting", 1_000]);
    outside.page.fire("focus");
    assert.deepEqual(client.all("error").length, 2, "an event dials");
  });

  test("that cannot be made later is a failed attempt", () => {
    const made = [];
    class WebSocket extends FakeSocket {
      constructor(url) {
        if (made.length === 1) made.push("refused");
        if (made[1] === "refused") throw new Error("blocked by policy");
        super(url);
        made.push(this);
      }
    }
    const client = start(outside, { WebSocket });
    made[0].end();
    outside.clock.advance(500);
    assert.equal(client.live.state, "waiting");
    assert.match(client.last("state").reason, /blocked by policy/);
    made[1] = "allowed";
    outside.clock.advance(1000);
    assert.equal(client.live.state, "connecting");
  });
});

describe("close()", () => {
  const moments = {
    connecting: () => start(outside),
    open: () => startOpen(outside),
    waiting: () => {
      const client = start(outside);
      client.socket.end();
      return client;
    },
  };
  for (const [state, at] of Object.entries(moments)) {
    test(`is final while ${state}`, () => {
      const client = at();
      client.live.subscribe("news", () => client.heard.push(["news"]));
      assert.equal(client.live.state, state);
      client.heard.length = 0;
      const sockets = client.sockets.length;
      const ended = client.socket.readyState === 3;

      client.live.close();
      client.live.close();
      if (!ended) assert.deepEqual(client.socket.closedWith, [1000]);
      client.socket.accept();
      client.socket.say("news", 1);
      client.socket.end(1006);
      for (const name of ["online", "pageshow", "focus", "visibilitychange"]) outside.page.fire(name);
      outside.clock.advance(600_000);

      assert.deepEqual(client.names(), ["closed"]);
      assert.equal(client.live.state, "closed");
      assert.equal(client.sockets.length, sockets);
      assert.equal(outside.clock.timers, 0);
    });
  }

  test("from inside any listener is just as final", () => {
    const events = ["connecting", "open", "waiting"];
    for (const state of events) {
      const client = start(outside);
      client.live.on("state", (event) => {
        if (event.state === state) client.live.close();
      });
      client.socket.accept();
      client.socket.end();
      outside.clock.advance(600_000);
      assert.equal(client.names().at(-1), "closed", `closed at ${state}`);
      assert.equal(client.sockets.filter((s) => s.readyState < 2).length, 0);
      assert.equal(outside.clock.timers, 0);
    }
  });

  test("after the server's final word tells nothing twice", () => {
    const client = startOpen(outside);
    client.socket.end(1000, "over");
    client.live.close();
    assert.deepEqual(client.names(), ["closed", "close"]);
  });

  test("stops the message that is being told", () => {
    const client = startOpen(outside);
    const told = [];
    client.live.subscribe("news", () => {
      told.push("first");
      client.live.close();
    });
    client.live.subscribe("news", () => told.push("second"));
    client.socket.say("news", 1);
    assert.deepEqual(told, ["first"]);
  });

  test("from inside an option's function opens nothing", () => {
    const client = start(outside, {
      subscribeMessage: () => {
        client.live.close();
        return null;
      },
    });
    client.live.subscribe("news", () => {});
    client.socket.accept();
    assert.deepEqual(client.names(), ["closed"]);
  });

  test("happens at the end of a using block", () => {
    const client = startOpen(outside);
    if (Symbol.dispose) client.live[Symbol.dispose]();
    else client.live["undefined"]();
    assert.equal(client.live.state, "closed");
  });
});

test("state is told in order, with what a page wants to show", () => {
  const client = start(outside);
  client.socket.accept();
  client.socket.end(1011, "panic");
  assert.equal(client.live.retryIn, 500);
  outside.clock.advance(200);
  assert.equal(client.live.retryIn, 300);
  outside.clock.advance(300);
  assert.equal(client.live.retryIn, undefined);
  client.socket.accept();
  assert.deepEqual(client.heard, [
    ["state", { state: "open", attempt: 0 }],
    ["open", undefined],
    ["state", { state: "waiting", attempt: 1, retryIn: 500, code: 1011, reason: "panic" }],
    ["close", { code: 1011, reason: "panic" }],
    ["state", { state: "connecting", attempt: 1 }],
    ["state", { state: "open", attempt: 1 }],
    ["open", undefined],
  ]);
});

test("a failed attempt is no close event", () => {
  const client = start(outside);
  client.socket.end();
  assert.deepEqual(client.names(), ["waiting"]);
});

for (const token of ["t", () => "t"]) {
  test(`a listener that dials anew while the first frame comes does not open the new connection (${typeof token})`, async () => {
    const client = start(outside, { token });
    await settled();
    client.socket.accept("live.v1");
    outside.clock.stall(10_000); // the time to connect is over, but its timer has not run
    client.live.listen("a", () => {
      client.live.reconnect();
      client.live.reconnect();
    });
    client.socket.sayFrame({ topic: "a", data: 1 });
    assert.equal(client.live.state, "connecting");
    await settled();
    assert.equal(client.sockets.length, 2);
    client.socket.greet();
    assert.equal(client.live.state, "open");
  });
}
