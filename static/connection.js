// A connection that comes back: reconnects, and waits longer the longer that fails,
// notices when the other end is gone, and takes another way where WebSockets do not
// get through.

/** Silence, in ms, after which the other end is asked for a sign of life. */
const QUIET = 5_000;
/** How long, in ms, it may take to give one. With `QUIET`: dead within 9 s. */
const PATIENCE = 4_000;
/** How long, in ms, a connection may take to open. */
const OPENING = 6_000;
/** A try to open one that is younger, in ms, is not given up for another. */
const FRESH = 1_000;
/** So many WebSockets in a row of which nothing was heard, and the stream is tried. */
const TRIES = 2;
/** How long, in ms, a stream lasts before a WebSocket is tried again: first and at most. */
const STREAMING = { first: 60_000, most: 600_000 };

const PING = JSON.stringify({ event: "ping" });

/**
 * How long to wait before trying again: exponential, with full jitter.
 *
 * Each delay is drawn uniformly from nothing up to a ceiling that doubles from
 * `first` to `most` (milliseconds), so that a thousand pages that lost the same
 * host do not come back in the same instant.
 */
export class Backoff {
  #first;
  #most;
  #random;
  #tries = 0;

  constructor({ first = 500, most = 30_000, random = Math.random } = {}) {
    this.#first = first;
    this.#most = most;
    this.#random = random;
  }

  /** The next delay in milliseconds. */
  next() {
    const ceiling = Math.min(this.#most, this.#first * 2 ** this.#tries);
    // Counting on past the highest ceiling would only end in infinity.
    if (ceiling < this.#most) this.#tries += 1;
    return this.#random() * ceiling;
  }

  /** It worked: begin at the first delay again. */
  reset() {
    this.#tries = 0;
  }
}

/**
 * Events:
 * - `state`: `state` or `kind` changed;
 * - `open`: a socket opened, the first or another one: messages sent before now may be missing;
 * - `message`: `detail` is a message, parsed.
 *
 * `state` is `connecting`, `open`, or `waiting`, when `retryAt` (ms since the
 * epoch) says until when. `kind` is the way that is taken: `socket` or `stream`.
 * It starts with `start()`.
 */
export class Connection extends EventTarget {
  state = "connecting";
  kind = "socket";
  retryAt = null;

  #ways;
  #backoff;
  #socket = null;
  #timer = null;
  #triedAt = 0;
  #openedAt = 0;
  /** How many WebSockets in a row were lost before anything was heard of them. */
  #unheard = 0;
  #heard = false;

  /** A WebSocket that is tried while a stream is open. */
  #better = null;
  #betterTimer = null;
  #betterIn = STREAMING.first;

  /**
   * `socket` returns a new WebSocket, `stream` what can stand in for one; without
   * `stream` there is no other way.
   */
  constructor({ socket, stream = null }, backoff = new Backoff()) {
    super();
    this.#ways = { socket, stream };
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
   * does not wait any longer, nor for a try that began before it did, and makes
   * sure of a socket that seems open.
   */
  wake() {
    if (this.state === "open") {
      this.#probe();
      if (this.kind === "stream") this.#tryBetter();
      return;
    }
    this.#backoff.reset();
    if (this.state === "connecting") {
      if (Date.now() - this.#triedAt < FRESH) return;
      discard(this.#socket);
    }
    this.#connect();
  }

  #connect() {
    this.#triedAt = Date.now();
    this.kind = this.#ways.stream && this.#unheard >= TRIES ? "stream" : "socket";
    this.#enter("connecting");
    const socket = this.#ways[this.kind]();
    this.#after(OPENING, () => this.#lose());
    socket.onopen = () => this.#use(socket, this.kind);
    this.#listen(socket);
  }

  /** What `socket` says is what the other end says. */
  #listen(socket) {
    this.#socket = socket;
    this.#heard = false;
    socket.onmessage = ({ data }) => {
      this.#heard = true;
      // Not at once: a host that accepts, answers and drops is not one that works.
      if (Date.now() - this.#openedAt > QUIET) this.#backoff.reset();
      this.#after(QUIET, () => this.#probe());
      const message = parse(data);
      if (message) this.dispatchEvent(new CustomEvent("message", { detail: message }));
    };
    socket.onclose = () => this.#lose();
  }

  #use(socket, kind) {
    this.kind = kind;
    this.#openedAt = Date.now();
    this.#enter("open");
    this.#probe();
    if (kind === "stream") {
      // The first WebSockets may have failed for want of a host, not of a way.
      if (this.#betterIn === STREAMING.first) this.#tryBetter();
      else this.#tryBetterLater();
    }
    this.dispatchEvent(new Event("open"));
  }

  #probe() {
    this.#socket.send(PING);
    this.#after(PATIENCE, () => this.#lose());
  }

  #lose() {
    this.#dropBetter();
    discard(this.#socket);
    this.#socket = null;
    // After a stream, heard of or not, WebSockets have their turn.
    this.#unheard = this.kind === "stream" || this.#heard ? 0 : this.#unheard + 1;
    const delay = this.#backoff.next();
    this.#after(delay, () => this.#connect());
    this.#enter("waiting", Date.now() + delay);
  }

  /**
   * Tries a WebSocket beside the open stream, and takes it when something comes
   * of it: there are proxies that let one open and nothing through.
   */
  #tryBetter() {
    if (this.#better) return;
    clearTimeout(this.#betterTimer);
    const socket = this.#ways.socket();
    this.#better = socket;
    const fail = () => {
      this.#dropBetter();
      this.#tryBetterLater();
    };
    this.#betterTimer = setTimeout(fail, OPENING);
    socket.onclose = fail;
    socket.onopen = () => socket.send(PING);
    socket.onmessage = (message) => {
      clearTimeout(this.#betterTimer);
      this.#better = null;
      this.#betterIn = STREAMING.first;
      this.#unheard = 0;
      discard(this.#socket);
      this.#listen(socket);
      this.#use(socket, "socket");
      socket.onmessage(message);
    };
  }

  #tryBetterLater() {
    this.#betterTimer = setTimeout(() => this.#tryBetter(), this.#betterIn);
    this.#betterIn = Math.min(this.#betterIn * 2, STREAMING.most);
  }

  #dropBetter() {
    clearTimeout(this.#betterTimer);
    if (this.#better) discard(this.#better);
    this.#better = null;
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

/** A dead socket can take minutes to close: nothing is expected of it any more. */
function discard(socket) {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
}

function parse(data) {
  try {
    const message = JSON.parse(data);
    return typeof message?.event === "string" ? message : null;
  } catch {
    return null;
  }
}
