// Fakes of the browser, and a clock that the tests advance.

import { afterEach, beforeEach, mock } from "node:test";

/** The source, or the module that package.test.mjs has built. */
export const { Backoff, ReconnectingSocket } = await import(process.env.CLIENT_MODULE ?? "../src/reconnecting-socket.js");

/** A fake WebSocket; the test is its server. */
export class FakeSocket {
  protocol = "";
  extensions = "";
  bufferedAmount = 0;
  sent = [];
  isClosed = false;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
    sockets.push(this);
  }

  send(data) {
    this.sent.push(data);
  }

  close(code, reason) {
    if (code !== undefined && code !== 1000 && (code < 3000 || code > 4999)) throw new DOMException("code", "InvalidAccessError");
    this.isClosed = true;
    this.closeArgs = [code, reason];
  }

  /** Completes the handshake. */
  accept(protocol = "") {
    this.protocol = protocol;
    this.onopen?.();
  }

  receive(message) {
    this.onmessage?.({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }

  /** Ends the connection, by default without a close frame. */
  end(code = 1006, reason = "") {
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }
}

/** A fake EventSource; the test is its server. */
export class FakeSource extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;

  readyState = FakeSource.CONNECTING;
  isClosed = false;

  constructor(url, options) {
    super();
    this.url = url;
    this.options = options;
    sources.push(this);
  }

  close() {
    this.isClosed = true;
  }

  accept() {
    this.readyState = FakeSource.OPEN;
    this.dispatchEvent(new Event("open"));
  }

  receive(message, type = "message") {
    const data = typeof message === "string" ? message : JSON.stringify(message);
    this.dispatchEvent(new MessageEvent(type, { data }));
  }

  /** Loses the connection. A browser connects again by itself, unless the response was an error. */
  fail(isFinal) {
    this.readyState = isFinal ? FakeSource.CLOSED : FakeSource.CONNECTING;
    this.onerror?.();
  }
}

/** All fake sockets and sources of the test, oldest first. */
export const sockets = [];
export const sources = [];

export let window;
export let network;
const clients = [];

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  window = new EventTarget();
  network = { onLine: true };
  sockets.length = sources.length = 0;
  Object.assign(globalThis, { WebSocket: FakeSocket, EventSource: FakeSource });
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.document = Object.assign(new EventTarget(), { hidden: false, baseURI: "https://app.example/page/" });
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: network });
});

afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  mock.timers.reset();
  mock.restoreAll();
});

/** Runs all pending promise callbacks. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Advances the time in steps, so that timers set by timers start at the right time. */
export async function pass(ms) {
  for (let left = ms; left > 0; left -= 100) {
    mock.timers.tick(Math.min(100, left));
    await settled();
  }
}

/** Connects without randomness, and returns the client with a list of its events. */
export async function connect(url = "/chat", protocols = [], options = {}) {
  const client = new ReconnectingSocket(url, protocols, { backoff: { random: () => 1 }, ...options });
  clients.push(client);
  const events = [];
  for (const type of ["open", "message", "item", "count", "refetch", "error", "close"]) {
    client.addEventListener(type, (event) => events.push(describe(event)));
  }
  await settled();
  return [client, events];
}

function describe({ type, data, id, channel, count, recovered, code }) {
  switch (type) {
    case "open":
      return recovered ? "open recovered" : "open";
    case "message":
      return `message ${data}`;
    case "item":
      return `item ${channel} ${id}`;
    case "count":
      return `count ${channel} ${count}`;
    case "refetch":
      return channel === undefined ? "refetch" : `refetch ${channel}`;
    case "close":
      return `close ${code}`;
    default:
      return type;
  }
}
