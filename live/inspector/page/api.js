// What the page asks of its server. All paths are relative, so the page works wherever it is mounted.

/** An answer that is not 200. The message is for the person. */
export class Refused extends Error {
  constructor(status, text) {
    super(text.replace(/^live inspector: /, "").trim() || `the server answered ${status}`);
    this.status = status;
  }
}

/** How long the server may take for figures, in ms. A server that is stuck must not look as if it were well. */
const TIMEOUT = 10_000;

async function ask(path, options) {
  const response = await fetch(path, { cache: "no-store", redirect: "error", ...options });
  if (!response.ok) throw new Refused(response.status, await response.text());
  return response.json();
}

/** Asks for figures. Parameters without a value are left out. */
export function get(name, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== ""));
  return ask(query.size ? `${name}?${query}` : name, { signal: AbortSignal.timeout(TIMEOUT) });
}

/** Asks the server to do something, and returns its text about that. */
export async function post(name, body) {
  const answer = await ask(name, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return answer.done;
}
