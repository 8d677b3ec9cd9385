// The order service over HTTP, also in place of a WebSocket.

import { clock } from "./clock.js";

const TIMEOUT_MS = 8_000;

/** Oldest first; with `null`, the latest ones. */
export async function fetchOrdersAfter(after, limit) {
  const query = new URLSearchParams();
  if (after !== null) query.set("after", after);
  if (limit !== undefined) query.set("limit", limit);
  return (await getJson(`/api/orders?${query}`)).orders;
}

export function fetchOrder(id) {
  return getJson(`/api/orders/${id}`);
}

/** Resolves to the messages that a WebSocket would receive in return. */
export async function sendOverHttp({ event, detail }) {
  switch (event) {
    case "ping": {
      // The latest order may have been missed.
      const received = (await fetchOrdersAfter(null, 1)).map((order) => ({
        event: "order-received",
        detail: { order },
      }));
      return [...received, { event: "pong" }];
    }
    case "order-status": {
      const { id, status } = detail;
      const response = await inSequence(id, () =>
        request(`/api/orders/${id}/status`, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ status }),
        }),
      );
      if (response.ok) return [{ event: "order-updated", detail: { order: await response.json() } }];
      return [{ event: "error", detail: { id, status, message: await errorText(response) } }];
    }
    default:
      throw new Error(`unknown event "${event}"`);
  }
}

async function getJson(url) {
  const requestedAt = Date.now();
  const response = await request(url);
  if (!response.ok) throw new Error(`GET ${url}: unexpected status ${response.status}`);
  clock.sync(response.headers.get("Date"), requestedAt);
  return response.json();
}

function request(url, options) {
  return fetch(url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
}

/** Returns the service's error text, but not a proxy's error page. */
async function errorText(response) {
  const isText = response.headers.get("Content-Type")?.startsWith("text/plain");
  const text = isText ? (await response.text()).trim() : "";
  return text || `the kitchen responded with status ${response.status}`;
}

const lastRequests = new Map();

/** An order's status requests must not overtake each other. */
function inSequence(id, send) {
  const previous = lastRequests.get(id) ?? Promise.resolve();
  const current = previous.then(send, send);
  const remove = () => {
    if (lastRequests.get(id) === current) lastRequests.delete(id);
  };
  lastRequests.set(id, current);
  current.then(remove, remove);
  return current;
}
