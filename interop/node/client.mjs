// A small client of live.v1, written from docs/protocol.md.
//
// new Client(WebSocket, url, options) dials until it is told to stop. Topics
// survive the connection: they are subscribed again with the newest position that
// was seen of them, and `gap` is called where something was missed.

const OPEN = 1;

/** What the code of a close event says that a client does. */
export function afterClose(code) {
  if (code === 1000 || (code >= 4000 && code < 4100)) return 'stop';
  if (code >= 4200 && code < 4300) return 'token';
  if (code === 1012 || code === 1013) return 'window';
  return 'backoff';
}

/** How long to wait after so many failures, in milliseconds. */
export function backoff(failures, bound = 200, most = 30_000, random = Math.random) {
  return random() * Math.min(bound * 2 ** failures, most);
}

/** The offer of subprotocols, with a token or without. */
export function protocols(token) {
  return token === undefined ? ['live.v1'] : ['live.v1', 'live.token.' + Buffer.from(token).toString('base64url')];
}

export class Refused extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

export class Client {
  #WebSocket; #url; #token; #socket;
  #ids = 0; #waiting = new Map(); #topics = new Map();
  #failures = 0; #heard = 0; #patience = 0; #watch; #within = 0;

  /** token: () => string | undefined, or a promise of it, asked at each dialling. on: hello, message, ended. */
  constructor(WebSocket, url, { token = () => undefined, on = {} } = {}) {
    this.#WebSocket = WebSocket;
    this.#url = url;
    this.#token = token;
    this.on = on;
    this.#dial();
  }

  /**
   * Calls publication(data, at, recovered) from the reply on; first may have last. resumed(recovered, n) is called after
   * each reply to a resubscription: n messages of what was missed came with the reply, and more may follow.
   */
  async subscribe(topic, publication, { gap = () => {}, resumed = () => {}, ...first } = {}) {
    const subscription = { publication, gap, resumed, at: undefined };
    this.#topics.set(topic, subscription);
    const reply = await this.#do({ op: 'subscribe', topic, ...first });
    return reply;
  }

  unsubscribe(topic) {
    this.#topics.delete(topic);
    return this.#do({ op: 'unsubscribe', topic });
  }

  publish(topic, data) { return this.#do({ op: 'publish', topic, data }); }
  request(topic, data) { return this.#do({ op: 'request', topic, data }); }
  history(topic, limit) { return this.#do({ op: 'history', topic, limit }); }

  /** Sends a frame as it is, for whoever knows better. */
  raw(text) { this.#socket.send(text); }

  /** Cuts the line, as a network does. */
  cut() { this.#socket.terminate(); }

  stop() {
    this.stopped = true;
    clearTimeout(this.#watch);
    this.#socket?.close(1000);
  }

  #do(operation) {
    const id = ++this.#ids;
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== OPEN) return reject(new Refused({ code: 'offline', message: 'not connected' }));
      this.#wait(id, operation, resolve, reject);
      this.#socket.send(JSON.stringify({ ...operation, id }));
    });
  }

  /** An answer may come in parts: texts of one JSON text, or messages. */
  #wait(id, operation, resolve, reject) {
    this.#waiting.set(id, { operation, resolve, reject, texts: [], messages: [] });
  }

  async #dial() {
    const token = await this.#token();
    if (this.stopped) return;
    const socket = new this.#WebSocket(this.#url, protocols(token));
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#frame(JSON.parse(data));
    socket.onerror = () => {}; // close follows
    socket.onclose = ({ code }) => this.#closed(code);
  }

  #closed(code) {
    clearTimeout(this.#watch);
    const cut = new Refused({ code: 'cut', message: 'the connection ended' });
    for (const { reject } of this.#waiting.values()) reject(cut);
    this.#waiting.clear();
    const what = afterClose(code);
    if (this.stopped || what === 'stop') {
      this.stopped = true;
      this.on.ended?.(code);
      return;
    }
    const wait = what === 'token' ? 0 : what === 'window' ? Math.random() * this.#within : backoff(this.#failures++);
    setTimeout(() => this.stopped || this.#dial(), wait);
  }

  // Nothing for a ping's interval and ten seconds: the line is dead, whatever the
  // socket says.
  #look() {
    const left = this.#heard + this.#patience - Date.now();
    if (left <= 0) return this.#socket.terminate();
    this.#watch = setTimeout(() => this.#look(), left);
  }

  #frame(frame) {
    this.#heard = Date.now();
    switch (frame.op) {
      case 'hello': return this.#hello(frame);
      case 'ping': return this.#socket.send('{"op":"pong"}');
      case 'part': return this.#waiting.get(frame.id)?.texts.push(frame.text);
      case 'reply': return this.#reply(frame);
      case 'error': return this.#answered(frame)?.reject(new Refused(frame));
      case 'drain': this.#within = frame.within; return;
      case 'gap': return this.#gap(frame.topic, frame.at);
      case undefined: return this.#publication(frame.topic, frame);
    }
  }

  #hello(frame) {
    this.#failures = 0;
    if (frame.ping > 0) {
      this.#patience = frame.ping + 10_000;
      this.#look();
    }
    const again = [];
    for (const [topic, { at }] of this.#topics) {
      const id = ++this.#ids;
      const operation = { op: 'subscribe', topic, ...(at && { since: at }) };
      const nobody = () => {};
      this.#wait(id, operation, nobody, nobody);
      again.push({ ...operation, id });
    }
    if (again.length > 0) this.#socket.send(JSON.stringify(again));
    this.on.hello?.(frame);
  }

  /** Returns what waited for an answer, which has come to its end. */
  #answered({ id }) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #reply(frame) {
    if (frame.messages) this.#waiting.get(frame.id)?.messages.push(...frame.messages);
    if (frame.more) return;
    const waiting = this.#answered(frame);
    if (!waiting) return;
    if (frame.messages) frame.messages = waiting.messages;
    if (frame.text !== undefined) frame.data = JSON.parse(waiting.texts.join('') + frame.text);
    if (waiting.operation.op === 'subscribe') this.#subscribed(waiting.operation, frame);
    waiting.resolve(frame);
  }

  #subscribed({ topic, since }, { at, recovered, messages = [] }) {
    const subscription = this.#topics.get(topic);
    if (!subscription) return;
    for (const message of messages) this.#publication(topic, { ...message, recovered: true });
    if (since !== undefined && !recovered) subscription.gap(at);
    if (at !== undefined) subscription.at = at;
    if (since !== undefined) subscription.resumed(recovered, messages.length);
  }

  #gap(topic, at) {
    const subscription = this.#topics.get(topic);
    if (!subscription) return;
    if (at !== undefined) subscription.at = at;
    subscription.gap(at);
  }

  #publication(topic, { data, at, recovered = false }) {
    const subscription = this.#topics.get(topic);
    if (!subscription) return this.on.message?.(topic, data);
    if (at !== undefined) subscription.at = at;
    subscription.publication(data, at, recovered);
  }
}
