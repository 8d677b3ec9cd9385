// A WebSocket that comes back: reconnects, and notices when the other end is gone.

import { Backoff } from "./backoff.js";

/** Silence, in ms, after which the other end is asked for a sign of life. */
const QUIET = 5_000;
/** How long, in ms, it may take to give one. With `QUIET`: dead within 9 s. */
const PATIENCE = 4_000;
/** How long, in ms, a connection may take to open. */
const OPENING = 10_000;

/**
 * Events:
 * - `state`: `state` changed;
 * - `open`: a socket opened, the first or another one: messages sent before now may be missing;
 * - `message`: `detail` is a message, parsed.
 *
 * `state` is `connecting`, `open`, or `waiting`, when `retryAt` (ms since the
 * epoch) says until when. It starts with `start()`.
 */
export class Connection extends EventTarget {
  state = "connecting";
  retryAt = null;

  #open;
  #backoff;
  #socket = null;
  #timer = null;

  /** `open` returns a new WebSocket. */
  constructor(open, backoff = new Backoff()) {
    super();
    this.#open = open;
    this.#backoff = backoff;
  }

  start() {
    this.#connect();
  }

  /** Sends a message if there is a socket to send it by, and says whether. */
  send(message) {
    if (this.state !== "open") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /**
   * Something changed for the better, the network or the reader's attention:
   * does not wait any longer, and makes sure of a socket that seems open.
   */
  wake() {
    if (this.state === "waiting") {
      this.#backoff.reset();
      this.#connect();
    } else if (this.state === "open") {
      this.#probe();
    }
  }

  #connect() {
    this.#enter("connecting");
    const socket = this.#open();
    this.#socket = socket;
    this.#after(OPENING, () => this.#lose());
    socket.onopen = () => {
      this.#enter("open");
      this.#probe();
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => {
      // Not when it opens: a host that accepts and drops is not one that works.
      this.#backoff.reset();
      this.#after(QUIET, () => this.#probe());
      const message = parse(data);
      if (message) this.dispatchEvent(new CustomEvent("message", { detail: message }));
    };
    socket.onclose = () => this.#lose();
  }

  #probe() {
    this.send({ event: "ping" });
    this.#after(PATIENCE, () => this.#lose());
  }

  #lose() {
    const socket = this.#socket;
    this.#socket = null;
    // A dead socket can take minutes to close: nothing is expected of it any more.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    const delay = this.#backoff.next();
    this.#after(delay, () => this.#connect());
    this.#enter("waiting", Date.now() + delay);
  }

  #enter(state, retryAt = null) {
    this.state = state;
    this.retryAt = retryAt;
    this.dispatchEvent(new Event("state"));
  }

  /** There is one timer: what it waits for follows from the state. */
  #after(delay, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, delay);
  }
}

function parse(data) {
  try {
    const message = JSON.parse(data);
    return typeof message?.event === "string" ? message : null;
  } catch {
    return null;
  }
}
