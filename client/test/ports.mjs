// Ports on which a test may listen again and again.
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";

// Systems give connections, and listeners without a port, higher ports: Linux from 32768 on, others from 49152 on.
const FIRST = 20_000;
const LAST = 29_999;

/**
 * A port of 127.0.0.1 on which nobody listens before the test does. It stays this process's until the process ends, also
 * while nothing listens on it: the UDP port of the same number is held meanwhile, and no test chooses a port whose UDP
 * port is held. The Go tests do the same (internal/livetest/address.go).
 */
export async function freePort() {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1));
    const held = createSocket("udp4").unref();
    const listener = createServer();
    try {
      held.bind({ port, address: "127.0.0.1", exclusive: true });
      await once(held, "listening");
      await once(listener.listen(port, "127.0.0.1"), "listening");
      await once(listener.close(), "close");
      return port;
    } catch {
      held.close();
    }
  }
}
