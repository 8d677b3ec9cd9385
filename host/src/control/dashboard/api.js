// Requests to the control port that serves this page.

const TOKEN = "socket-host-token";

/** The response is an error. `status` is its status, or 0 if there is no response. */
export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/** Keeps a token for later requests until the tab is closed, or forgets it. */
export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Sends a request, and returns the successful response. */
export async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token) {
    // A header cannot contain other characters, and no valid token does.
    if (!/^[\x20-\x7e]+$/.test(token)) throw new ApiError(401, "invalid token");
    headers.set("authorization", `Bearer ${token}`);
  }
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the host does not respond");
  }
  if (response.ok) return response;
  throw new ApiError(response.status, (await response.text()).trim() || `status ${response.status}`);
}

export const getJson = async (path) => (await request(path)).json();

export const getText = async (path) => (await request(path)).text();

/** Returns a path of segments, which are percent-encoded. */
export const path = (...segments) => `/${segments.map(encodeURIComponent).join("/")}`;

/** Publishes a text to the WebSockets of a channel. */
export async function publish(channel, text) {
  const body = JSON.stringify({ items: [{ channel, formats: { "ws-message": { content: text } } }] });
  const headers = { accept: "application/json", "content-type": "application/json" };
  const response = await request("/publish/", { method: "POST", headers, body });
  return response.json();
}

/** Reads server-sent events until the connection or `signal` ends. `handle` gets the name and the data of each. */
export async function events(path, signal, handle) {
  const response = await request(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const fields = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const field = (name) => fields.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const data = field("data");
      if (data !== undefined) handle(field("event") ?? "message", JSON.parse(data));
    }
  }
}
