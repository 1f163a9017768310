// A small server of live.v1 over real sockets: enough of docs/protocol.md to be disconnected from and resumed at.
import { once } from "node:events";
import { WebSocketServer } from "ws";

const HISTORY = 200; // publications that each topic keeps

export class LiveServer {
  port = 0;

  /** Each connection since start: {socket, protocols, url, frames, topics}. */
  connections = [];

  /** What an application would set: answers a request, refuses a topic, refuses a handshake. */
  onRequest = (topic, data) => data;
  refuses = () => undefined;
  authorize = () => true;

  #server;
  #topics = new Map();
  #epoch = "e";

  static async start() {
    const server = new LiveServer();
    await server.start();
    return server;
  }

  async start() {
    this.#server = new WebSocketServer({
      port: this.port,
      host: "127.0.0.1",
      handleProtocols: (offered) => offered.has("live.v1") && "live.v1",
      verifyClient: ({ req }, answer) => answer(this.authorize(req), 401),
    });
    this.#server.on("connection", (socket, request) => this.#greet(socket, request));
    await once(this.#server, "listening");
    this.port = this.#server.address().port;
  }

  get url() {
    return `http://127.0.0.1:${this.port}/live`;
  }

  get alive() {
    return this.#server.clients.size;
  }

  get newest() {
    return this.connections.at(-1);
  }

  #greet(socket, request) {
    const connection = { socket, url: request.url, frames: [], topics: new Set() };
    connection.protocols = request.headers["sec-websocket-protocol"].split(/, */);
    this.connections.push(connection);
    say(socket, { op: "hello", version: 1, session: `s${this.connections.length}`, ping: 25_000 });
    socket.on("message", (frame) => {
      const heard = JSON.parse(frame);
      connection.frames.push(heard);
      for (const operation of [heard].flat()) this.#carryOut(connection, operation);
    });
  }

  #carryOut(connection, { op, id, topic, data, since, last }) {
    const answer = (members) => say(connection.socket, { op: "reply", id, ...members });
    const refused = op === "subscribe" && this.refuses(topic, connection);
    if (refused) return say(connection.socket, { op: "error", id, code: refused, message: refused });
    switch (op) {
      case "subscribe":
        connection.topics.add(topic);
        return answer(this.#resumed(topic, since, last));
      case "unsubscribe":
        connection.topics.delete(topic);
        return id && answer();
      case "publish":
        return answer({ at: this.publish(topic, data) });
      case "request":
        return answer({ data: this.onRequest(topic, data) });
      case "history":
        return answer({ messages: this.#topic(topic).slice(-10) });
    }
  }

  #topic(topic) {
    if (!this.#topics.has(topic)) this.#topics.set(topic, Object.assign([], { count: 0 }));
    return this.#topics.get(topic);
  }

  #resumed(topic, since, last) {
    const kept = this.#topic(topic);
    const at = `${this.#epoch}.${kept.count}`;
    if (last) return { at, messages: kept.slice(-last) };
    if (!since) return { at };
    const [epoch, offset] = since.split(".");
    const missed = kept.count - offset;
    const recovered = epoch === this.#epoch && missed <= kept.length;
    return { at, recovered, messages: recovered && missed ? kept.slice(-missed) : [] };
  }

  publish(topic, data) {
    const kept = this.#topic(topic);
    const at = `${this.#epoch}.${++kept.count}`;
    kept.push({ data, at });
    if (kept.length > HISTORY) kept.shift();
    for (const { socket, topics } of this.connections) {
      if (topics.has(topic) && socket.readyState === socket.OPEN) say(socket, { topic, data, at });
    }
    return at;
  }

  /** The history of every topic begins anew. */
  forget() {
    this.#epoch += "e";
    this.#topics.clear();
  }

  end(code, reason) {
    for (const socket of this.#server.clients) socket.close(code, reason);
  }

  /** Cuts every line without a word. */
  cut() {
    for (const socket of this.#server.clients) socket.terminate();
  }

  async close() {
    this.cut();
    await new Promise((done) => this.#server.close(done));
  }
}

const say = (socket, frame) => socket.send(JSON.stringify(frame));
