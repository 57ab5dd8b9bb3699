// Requests to the proxy: documents, changes and the stream. The token is kept for this tab alone, never in a cookie.

const TOKEN = "rproxy-token";
const SILENCE_MS = 40000; // the proxy sends something every 15 s
const LONGEST_WAIT_S = 10;

export const token = {
  get: () => sessionStorage.getItem(TOKEN) || "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

/** An answer other than 2xx; `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error || message;
  } catch {
    // the answer was no JSON
  }
  throw new Refused(response.status, message);
}

export const get = async (path) => (await request(path)).json();
export const post = async (path) => (await request(path, { method: "POST" })).json();

/** The path of what is done to a back-end. */
export function backendPath(row, name, verb, query = "") {
  return `api/backends/${encodeURIComponent(row.service)}/${encodeURIComponent(name)}/${verb}${query}`;
}

/**
 * Follow the stream for as long as the page is open, connecting again whenever it ends.
 *
 * `on.opened()` comes before the events of a connection, `on.event(name, value)` for each of them, and
 * `on.closed(error, seconds)` when it ended, and when the next attempt is made. Returns `again`, which connects again at
 * once, and `pause`, which disconnects until then.
 */
export function follow(path, on) {
  let wait = 1, paused = false, wake = () => {}, abort = new AbortController();
  const again = () => {
    wait = 1;
    paused = false;
    abort.abort();
    wake();
  };
  const pause = () => {
    paused = true;
    abort.abort();
  };
  (async () => {
    for (;;) {
      if (paused) await new Promise((resolve) => (wake = resolve));
      let problem = null;
      abort = new AbortController();
      try {
        await read(path, abort, on, () => (wait = 1));
      } catch (error) {
        problem = error;
      }
      if (paused) continue;
      on.closed(problem, wait);
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, wait * 1000);
      });
      wait = Math.min(2 * wait, LONGEST_WAIT_S);
    }
  })();
  return { again, pause };
}

async function read(path, abort, on, alive) {
  let timer = 0;
  const watch = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  watch();
  try {
    const response = await request(path, { signal: abort.signal });
    on.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      watch();
      const from = Math.max(0, text.length - 1);
      text += value;
      let end = text.indexOf("\n\n", from);
      while (end >= 0) {
        alive();
        dispatch(text.slice(0, end), on);
        text = text.slice(end + 2);
        end = text.indexOf("\n\n");
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function dispatch(message, on) {
  let name = "message";
  const data = [];
  for (const line of message.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5));
  }
  if (data.length) on.event(name, JSON.parse(data.join("\n")));
}
