// The order service over HTTP: requests, and what stands in for a WebSocket where
// none gets through.

import { clock } from "./clock.js";

/** How long, in ms, it may take to answer. */
const PATIENCE = 8_000;

/** The orders after an id, oldest first; with null, the latest. */
export async function ordersAfter(after, limit) {
  const query = new URLSearchParams();
  if (after !== null) query.set("after", after);
  if (limit !== undefined) query.set("limit", limit);
  return (await get(`/api/orders?${query}`)).orders;
}

/** One order. */
export function orderOf(id) {
  return get(`/api/orders/${id}`);
}

/**
 * What a WebSocket would be told, said in requests instead; promises the
 * messages that answer. A step that was refused is an answer too.
 */
export async function exchange({ event, detail }) {
  switch (event) {
    case "ping": {
      // Tells that the service lives, and of an order that was not heard of.
      const received = (await ordersAfter(null, 1)).map((order) => ({
        event: "order-received",
        detail: { order },
      }));
      return [...received, { event: "pong" }];
    }
    case "order-status": {
      const { id, status } = detail;
      const response = await inTurn(id, () =>
        ask(`/api/orders/${id}/status`, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ status }),
        }),
      );
      if (response.ok) return [{ event: "order-updated", detail: { order: await response.json() } }];
      return [{ event: "error", detail: { id, status, message: await reason(response) } }];
    }
    default:
      throw new Error(`there is no request for ${event}`);
  }
}

/**
 * As much of a WebSocket as connection.js uses: server-sent events one way, requests
 * the other.
 */
export class Stream {
  onopen = null;
  onmessage = null;
  onclose = null;

  #source;
  #exchange;

  /** `source` is an EventSource; `exchange` promises the answers to a message. */
  constructor(source, exchange) {
    this.#source = source;
    this.#exchange = exchange;
    // When it is lost the browser asks again by itself, and where nobody holds the
    // response open, it does so all the time. Whether anybody is there at all, the
    // answers to messages tell.
    source.onopen = () => {
      source.onopen = null;
      this.onopen?.();
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.onclose?.();
    };
    for (const event of ["order-received", "order-updated"]) {
      source.addEventListener(event, ({ data }) => this.onmessage?.({ data }));
    }
  }

  send(text) {
    this.#exchange(JSON.parse(text)).then(
      (answers) => {
        for (const answer of answers) this.onmessage?.({ data: JSON.stringify(answer) });
      },
      // No answer is what a silent socket gives, too.
      (error) => console.warn("no answer:", error),
    );
  }

  close() {
    this.#source.close();
  }
}

async function get(url) {
  const asked = Date.now();
  const response = await ask(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  clock.hear(response.headers.get("Date"), asked);
  return response.json();
}

function ask(url, options) {
  return fetch(url, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE), ...options });
}

/** Why not. What is between here and the service explains itself in pages. */
async function reason(response) {
  const isText = response.headers.get("Content-Type")?.startsWith("text/plain");
  const text = isText ? (await response.text()).trim() : "";
  return text || `the kitchen answered ${response.status}`;
}

/** By order: the last request to change it. */
const changing = new Map();

/** Two steps are two requests, and the first one has to be there first. */
function inTurn(id, request) {
  const before = changing.get(id) ?? Promise.resolve();
  const turn = before.then(request, request);
  const end = () => {
    if (changing.get(id) === turn) changing.delete(id);
  };
  changing.set(id, turn);
  turn.then(end, end);
  return turn;
}
