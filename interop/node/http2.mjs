// Opens a WebSocket over HTTP/2 as browsers do (RFC 8441), and prints the answer's status and
// subprotocol, and the first message. The arguments are the URL of the page and the path of the WebSocket.

import http2 from 'node:http2';

const [page, path] = process.argv.slice(2);
const session = http2.connect(page, { rejectUnauthorized: false }); // a certificate for tests

function end(line) {
  console.log(line);
  session.destroy();
}

session.on('error', (error) => end(`error: ${error.message}`));
session.on('remoteSettings', (settings) => {
  if (!settings.enableConnectProtocol) return end('the proxy does not offer it');
  const stream = session.request({
    ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'https', ':path': path, ':authority': new URL(page).host,
    origin: page, 'sec-websocket-version': '13', 'sec-websocket-protocol': 'live.v1',
  });
  stream.on('error', (error) => end(`error: ${error.message}`));
  stream.on('response', (answer) => console.log(answer[':status'], answer['sec-websocket-protocol']));
  stream.once('data', (frame) => end(frame.subarray(2).toString())); // after the head of a short frame
});
