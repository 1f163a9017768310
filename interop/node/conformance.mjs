// Goes through the protocol with client.mjs, and prints what happens, a line each:
// node conformance.mjs ws://…. The tests compare that with what a client in Go prints.

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { Client } from './client.mjs';

const WebSocket = createRequire(new URL('../../client/package.json', import.meta.url))('ws');
const url = process.argv[2];

const print = (...words) => console.log(words.join(' '));
const json = (v) => JSON.stringify(v) ?? 'nothing';

// Epochs are the server's; what stays the same is the number.
const place = (at) => (at === undefined ? 'nowhere' : at.slice(at.lastIndexOf('.') + 1));

// What is too long to print.
const digest = (text) => createHash('sha256').update(text).digest('hex');
const listOf = (messages) => json(messages.map((m) => [m.data, place(m.at)]));

// What a test waits for.
function signal() {
  let resolve;
  const promise = new Promise((r) => { resolve = r; });
  return { promise, resolve };
}

let away = Promise.resolve(); // nobody dials before
function connect(on = {}) {
  const greeted = signal();
  const client = new Client(WebSocket, url, {
    token: () => away.then(() => 'secret'),
    on: { ...on, hello: (f) => { on.hello?.(f); greeted.resolve(f); } },
  });
  return { client, greeted: greeted.promise };
}

// What is heard of a topic. It is printed when it is waited for, since two
// connections take turns as they like.
function ear(topic) {
  const lines = [];
  let printed = 0;
  let awaited = signal();
  const add = (...words) => {
    lines.push(words);
    awaited.resolve();
  };
  return {
    hear: (data, at) => add('heard', topic, json(data), place(at)),
    gap: (at) => add('gap', topic, place(at)),
    resumed: (recovered, n) => add('resumed', topic, json(recovered), json(n)),
    async until(n) {
      while (lines.length < n) {
        await awaited.promise;
        awaited = signal();
      }
      for (; printed < lines.length; printed++) print(...lines[printed]);
    },
  };
}

// What is heard of topic large: what comes back in parts, and then what is new.
function largeEar() {
  const back = []; // each publication that was missed
  let inReply;
  const first = signal();
  const complete = signal();
  const fresh = ear('large');
  return {
    hear: (data, at, recovered) => {
      if (at.endsWith('.1')) return first.resolve(at);
      if (!recovered) return fresh.hear(data, at);
      if (back.push({ data, at }) === lots) complete.resolve();
    },
    gap: fresh.gap,
    resumed: (recovered, n) => { inReply = [recovered, n]; },
    first: first.promise,
    until: fresh.until,
    async resumedAll() {
      await complete.promise;
      const [recovered, n] = inReply;
      print('resumed large', recovered, n > 0 && n < lots, place(back.at(-1).at), back.length, digest(listOf(back)));
    },
  };
}

// As the client in Go has them.
const lots = 500;
const largeData = (n) => String(n).padStart(498, '0');
const answerText = 'grüße, 世界 🎉 "\n'.repeat((200 << 10) / 25); // 200 KB as JSON

async function trying(what, promise) {
  try {
    const { at, data, recovered, messages } = await promise;
    print(what, 'done', place(at), json(data), json(recovered), json(messages?.map((m) => [m.data, place(m.at)])));
  } catch (err) {
    print(what, 'refused', err.code);
  }
}

const ended = signal();
const { client, greeted } = connect({
  ended: (code) => ended.resolve(code),
  message: (topic, data) => print('told', topic, json(data)),
});
const hello = await greeted;
print('hello', hello.version, hello.ping, typeof hello.session);
const other = connect();
await other.greeted;

// Each operation.
const plain = ear('plain');
const chat = ear('chat');
const brief = ear('brief');
await trying('subscribe plain', client.subscribe('plain', plain.hear));
await trying('subscribe chat', client.subscribe('chat', chat.hear, { resumed: chat.resumed }));
await trying('subscribe brief', client.subscribe('brief', brief.hear, { gap: brief.gap }));
const large = largeEar();
await trying('subscribe large', client.subscribe('large', large.hear, { resumed: large.resumed, gap: large.gap }));
await trying('publish plain', other.client.publish('plain', { text: 'hello' }));
await plain.until(1);
for (const n of [1, 2, 3]) {
  await trying('publish chat', other.client.publish('chat', n));
  await chat.until(n);
}
await trying('publish brief', other.client.publish('brief', 'first'));
await brief.until(1);
await trying('request', client.request('echo', { a: [1, 'ü', null] }));
await trying('request of nothing', client.request('echo'));
await trying('history', client.history('chat', 2));
await trying('history of nothing', client.history('plain', 2));
await trying('forbidden topic', client.subscribe('private', () => {}));
await trying('forbidden publication', client.publish('private', 1));
await trying('no topic', client.publish('', 1));
await trying('a code of the application', client.request('late'));
await trying('tell me', client.request('tell me', 7));

// An answer in pieces.
const answer = JSON.stringify((await client.request('echo', answerText)).data);
print('large request', Buffer.byteLength(answer), digest(answer));
await trying('publish large', other.client.publish('large', largeData(0)));
print('heard large', place(await large.first));

// While it is away there is more to come back to than one topic keeps.
const back = signal();
away = back.promise;
client.cut();
await Promise.all(Array.from({ length: lots }, (_, i) => other.client.publish('large', largeData(i + 1))));
for (const n of [4, 5, 6]) {
  await trying('publish chat', other.client.publish('chat', n));
  await trying('publish brief', other.client.publish('brief', n));
}
back.resolve();
await chat.until(7); // with the word that it has resumed
await brief.until(2); // with the gap
await large.resumedAll();
const past = (await client.history('large', lots)).messages;
print('large history', past.length, digest(listOf(past)));
await trying('publish large', other.client.publish('large', 'small'));
await large.until(1);
await trying('publish brief', other.client.publish('brief', 'last'));
await brief.until(3);
await trying('unsubscribe', client.unsubscribe('chat'));
await trying('publish chat', other.client.publish('chat', 7));
await trying('subscribe with last', client.subscribe('chat', chat.hear, { last: 2 }));

// It answers pings: the server would have closed it long ago.
await new Promise((resolve) => setTimeout(resolve, 1000));
await trying('still here', client.request('echo', 'yes'));

// Codes after which it stays away.
await trying('end', client.request('end'));
print('ended', await ended.promise);
const broken = signal();
const third = connect({ ended: (code) => broken.resolve(code) });
await third.greeted;
third.client.raw('this is no frame');
print('ended', await broken.promise);
other.client.stop();
