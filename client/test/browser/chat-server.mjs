// The chat of examples/, as a process that a test starts, stops and cuts off.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const examples = fileURLToPath(new URL("../../../examples", import.meta.url));

/** Builds the chat into a folder of its own. Returns its path, and what removes it. */
export function buildChat() {
  const folder = mkdtempSync(join(tmpdir(), "livetopic-chat-"));
  const binary = join(folder, "chat");
  const { status, stderr } = spawnSync("go", ["build", "-o", binary, "./chat"], { cwd: examples, encoding: "utf8" });
  if (status !== 0) throw new Error("the chat does not build: " + stderr);
  return { binary, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

export class ChatServer {
  #binary;
  #process;
  port = 0;

  constructor(binary) {
    this.#binary = binary;
  }

  /** Starts it, on the port that it had before if there was one. Returns when it listens. */
  async start() {
    this.#process = spawn(this.#binary, ["-addr", `127.0.0.1:${this.port}`], { stdio: ["ignore", "pipe", "ignore"] });
    for await (const line of createInterface(this.#process.stdout)) {
      const found = /^Chat: http:\/\/localhost:(\d+)$/.exec(line);
      if (!found) continue;
      this.port = Number(found[1]);
      this.#process.stdout.resume();
      return;
    }
    throw new Error("the chat did not start");
  }

  /** Asks it to end, and returns its exit code. */
  async stop() {
    const process = this.#process;
    this.#process = undefined;
    if (!process) return 0;
    const exited = process.exitCode === null ? once(process, "exit") : [process.exitCode];
    process.kill("SIGTERM");
    const [code] = await exited;
    return code;
  }

  /** Says something over HTTP, as curl does. */
  async post(room, user, text) {
    const url = `http://127.0.0.1:${this.port}/rooms/${room}/messages`;
    const { status } = await fetch(url, { method: "POST", body: new URLSearchParams({ user, text }) });
    if (status !== 202) throw new Error(`the chat answered ${status}`);
  }
}

/** A network between a page and a server on loopback that can be cut. */
export class Network {
  #sockets = new Set();
  #whole = true;
  #listener;

  async listen(port) {
    this.#listener = net.createServer((near) => {
      if (!this.#whole) return near.destroy();
      const far = net.connect(port, "127.0.0.1");
      for (const [from, to] of [[near, far], [far, near]]) {
        this.#sockets.add(from);
        from.on("error", () => {});
        from.on("close", () => {
          this.#sockets.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    });
    this.#listener.listen(0, "127.0.0.1");
    await once(this.#listener, "listening");
    this.port = this.#listener.address().port;
  }

  cut() {
    this.#whole = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#whole = true;
  }

  close() {
    this.cut();
    this.#listener.close();
  }
}
