// Programs of examples/ as processes that a test starts, stops, kills and freezes, and a network that it cuts.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { freePort } from "../ports.mjs";

const examples = fileURLToPath(new URL("../../../examples", import.meta.url));

/** Builds a program of examples/ into a folder of its own. Returns its path, and what removes it. */
export function build(program) {
  const folder = mkdtempSync(join(tmpdir(), "livetopic-"));
  const binary = join(folder, program);
  const { status, stderr } = spawnSync("go", ["build", "-o", binary, "./" + program], { cwd: examples, encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} does not build: ${stderr}`);
  return { binary, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** A program that prints where it listens, as in "Chat: http://localhost:8080". */
export class Server {
  #binary;
  #args;
  #process;
  port = 0;

  constructor(binary, ...args) {
    this.#binary = binary;
    this.#args = args;
  }

  /** Starts it, on the port that it had before if there was one. Returns when it listens. */
  async start() {
    this.port ||= await freePort();
    const args = ["-addr", `127.0.0.1:${this.port}`, ...this.#args];
    this.#process = spawn(this.#binary, args, { stdio: ["ignore", "pipe", "ignore"] });
    for await (const line of createInterface(this.#process.stdout)) {
      if (!/^[\w ]+: http:\/\/[\w.]+:\d+$/.test(line)) continue;
      this.#process.stdout.resume();
      return;
    }
    throw new Error("the server did not start");
  }

  /** Asks it to end, and returns its exit code. */
  stop() {
    return this.#end("SIGTERM");
  }

  /** Ends it at once, as the kernel does when there is no memory left. */
  kill() {
    return this.#end("SIGKILL");
  }

  async #end(signal) {
    const process = this.#process;
    this.#process = undefined;
    if (!process) return 0;
    const exited = process.exitCode === null ? once(process, "exit") : [process.exitCode];
    process.kill(signal);
    const [code] = await exited;
    return code;
  }

  /** Stops the process: its connections stay open, and nothing is sent on them. Returns when its threads have stopped. */
  async freeze() {
    const { pid } = this.#process;
    this.#process.kill("SIGSTOP");
    const runs = (thread) => !/\) T /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8"));
    while (readdirSync(`/proc/${pid}/task`).some(runs)) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  thaw() {
    this.#process?.kill("SIGCONT");
  }

  /** Makes a request, with JSON if there is a body, and returns the answer's JSON. */
  async call(method, path, body) {
    const headers = body && { "Content-Type": "application/json" };
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
    return response.json();
  }
}

/** A network between a page and a server on loopback that can fail. */
export class Network {
  #connections = new Set();
  #connected = true;
  #listener;

  async listen(port) {
    this.#listener = net.createServer((near) => {
      if (!this.#connected) return near.destroy();
      const connection = { near, far: net.connect(port, "127.0.0.1") };
      this.#connections.add(connection);
      near.once("data", (request) => (connection.live = /^upgrade: websocket/im.test(request)));
      for (const [from, to] of [[connection.near, connection.far], [connection.far, connection.near]]) {
        from.on("error", () => {});
        from.on("close", () => {
          if (connection.frozen) return;
          this.#connections.delete(connection);
          to.destroy();
        });
        from.pipe(to);
      }
    });
    this.#listener.listen(0, "127.0.0.1");
    await once(this.#listener, "listening");
    this.port = this.#listener.address().port;
  }

  /** Breaks every connection, and refuses new ones. */
  cut() {
    this.#connected = false;
    this.drop();
  }

  mend() {
    this.#connected = true;
  }

  /** Breaks every connection, so that both ends see it. */
  drop() {
    for (const { near, far } of this.#connections) {
      near.destroy();
      far.destroy();
    }
  }

  /** Keeps from every page what the server sends. What the pages send goes on. */
  mute() {
    for (const { far } of this.#connections) far.unpipe();
  }

  /** Cuts every connection behind the proxy. The page does not see this: its connections are half open. */
  strand() {
    for (const connection of this.#connections) {
      connection.frozen = true;
      connection.far.unpipe();
      connection.near.unpipe();
      connection.near.resume();
      connection.far.destroy();
    }
  }

  /** Ends every WebSocket with a close frame to the page that has this code. */
  end(code, reason) {
    const frame = Buffer.concat([Buffer.from([0x88, 2 + reason.length, code >> 8, code & 0xff]), Buffer.from(reason)]);
    for (const { near, far, live } of this.#connections) {
      if (!live) continue; // the page may be about to send its next request on it
      far.unpipe();
      near.end(frame, () => far.destroy());
    }
  }

  close() {
    this.cut();
    this.#listener.close();
  }
}
