// A small server of live.v1 over real sockets. It has enough of docs/protocol.md for tests of reconnects, resumption and parts.
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { freePort } from "./ports.mjs";

const HISTORY = 200; // publications that each topic keeps

export class LiveServer {
  port = 0;

  /** Every connection since the start: {socket, protocols, url, frames, topics, behind}. */
  connections = [];

  /** The largest number of messages, or of characters of an answer's text, in a frame. Larger answers go out in parts. */
  part = Infinity;

  /** The largest client message in bytes, which hello tells. A client that sends more is closed with 1009. */
  largest = 16 * 2 ** 20;

  /** Set by a test: they answer a request, at once or later, refuse a topic, or refuse a handshake. */
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
    this.port ||= await freePort();
    this.#server = new WebSocketServer({
      port: this.port,
      host: "127.0.0.1",
      maxPayload: this.largest,
      handleProtocols: (offered) => offered.has("live.v1") && "live.v1",
      verifyClient: ({ req }, answer) => answer(this.authorize(req), 401),
    });
    this.#server.on("connection", (socket, request) => this.#greet(socket, request));
    await once(this.#server, "listening");
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
    const connection = { socket, url: request.url, frames: [], topics: new Set(), behind: new Map() };
    connection.protocols = request.headers["sec-websocket-protocol"].split(/, */);
    this.connections.push(connection);
    say(socket, { op: "hello", version: 1, session: `s${this.connections.length}`, ping: 25_000, largest: this.largest });
    socket.on("error", () => {}); // close follows
    socket.on("message", (frame) => {
      const heard = JSON.parse(frame);
      connection.frames.push(heard);
      for (const operation of [heard].flat()) this.#carryOut(connection, operation);
    });
  }

  #carryOut(connection, { op, id, topic, data, since, last, limit }) {
    const answer = (members) => say(connection.socket, { op: "reply", id, ...members });
    const refused = op === "subscribe" && this.refuses(topic, connection);
    if (refused) return say(connection.socket, { op: "error", id, code: refused, message: refused });
    switch (op) {
      case "ping":
        return say(connection.socket, { op: "pong" });
      case "subscribe":
        connection.topics.add(topic);
        return answer(this.#resumed(connection, topic, since, last));
      case "unsubscribe":
        connection.topics.delete(topic);
        connection.behind.delete(topic);
        return id && answer();
      case "publish":
        return answer({ at: this.publish(topic, data) });
      case "request":
        return this.#answerWith(this.onRequest(topic, data), connection.socket, id);
      case "history":
        return this.#answerWithHistory(this.#topic(topic).slice(-limit), answer);
    }
  }

  /** A large answer goes out as pieces of its JSON text, one in each turn of the event loop. */
  async #answerWith(answer, socket, id) {
    const data = answer instanceof Promise ? await answer : answer;
    const characters = [...(JSON.stringify(data) ?? "")];
    if (characters.length <= this.part) return say(socket, { op: "reply", id, data });
    while (characters.length) {
      const text = characters.splice(0, this.part).join("");
      say(socket, { op: characters.length ? "part" : "reply", id, text });
      await turn();
    }
  }

  /** A long history goes out as several replies. */
  async #answerWithHistory(messages, answer) {
    for (; messages.length > this.part; await turn()) answer({ messages: messages.splice(0, this.part), more: true });
    answer({ messages });
  }

  #topic(topic) {
    if (!this.#topics.has(topic)) this.#topics.set(topic, Object.assign([], { count: 0 }));
    return this.#topics.get(topic);
  }

  #resumed(connection, topic, since, last = 0) {
    const kept = this.#topic(topic);
    const oldest = kept.count - kept.length; // the offset before the first message
    const [epoch, offset] = since?.split(".") ?? [];
    const recovered = since && epoch === this.#epoch && offset >= oldest;
    const from = recovered ? +offset : Math.max(kept.count - last, oldest);
    const first = kept.slice(from - oldest).slice(0, this.part);
    const sent = from + first.length;
    if (sent < kept.count) this.#catchUp(connection, topic, sent);
    return { at: `${this.#epoch}.${sent}`, recovered, messages: recovered || last ? first : undefined };
  }

  /** Sends the messages after an offset, one in each turn of the event loop. Messages that the history has lost are a gap. */
  async #catchUp({ socket, behind }, topic, sent) {
    const mine = {};
    behind.set(topic, mine);
    for (;;) {
      await turn();
      if (behind.get(topic) !== mine || socket.readyState !== socket.OPEN) return;
      const kept = this.#topic(topic);
      const oldest = kept.count - kept.length;
      if (sent < oldest) {
        sent = oldest;
        say(socket, { op: "gap", topic, at: `${this.#epoch}.${sent}` });
      } else if (sent < kept.count) {
        say(socket, { topic, ...kept[sent - oldest], recovered: true });
        sent++;
      } else {
        behind.delete(topic);
        return;
      }
    }
  }

  publish(topic, data) {
    const kept = this.#topic(topic);
    const at = `${this.#epoch}.${++kept.count}`;
    kept.push({ data, at });
    if (kept.length > HISTORY) kept.shift();
    for (const { socket, topics, behind } of this.connections) {
      const live = topics.has(topic) && !behind.has(topic);
      if (live && socket.readyState === socket.OPEN) say(socket, { topic, data, at });
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

  /** Cuts every connection without a close frame. */
  cut() {
    for (const socket of this.#server.clients) socket.terminate();
  }

  async close() {
    this.cut();
    await new Promise((done) => this.#server.close(done));
  }
}

const turn = () => new Promise(setImmediate);
const say = (socket, frame) => socket.send(JSON.stringify(frame));
