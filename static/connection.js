// A connection that reconnects with backoff, detects a dead peer, and falls back to an
// event stream where WebSockets do not work.

/** A ping is sent after this silence. */
const PING_AFTER_MS = 5_000;
const PONG_TIMEOUT_MS = 4_000;
const OPEN_TIMEOUT_MS = 6_000;
/** `wake` does not interrupt an attempt younger than this. */
const MIN_ATTEMPT_MS = 1_000;
/** The number of consecutive WebSockets without a message before the stream is tried. */
const MAX_SILENT_SOCKETS = 2;
/** How long a stream lasts before a WebSocket is tried again; doubles up to the maximum. */
const UPGRADE_AFTER_MS = { initial: 60_000, max: 600_000 };

const PING = JSON.stringify({ event: "ping" });

/**
 * Exponential backoff with full jitter: each delay is random, between 0 and a ceiling
 * that doubles from `initial` to `max` (ms). Clients that lost the same host
 * do not all return at the same time.
 */
export class Backoff {
  #initial;
  #max;
  #random;
  #attempts = 0;

  constructor({ initial = 500, max = 30_000, random = Math.random } = {}) {
    this.#initial = initial;
    this.#max = max;
    this.#random = random;
  }

  next() {
    const ceiling = Math.min(this.#max, this.#initial * 2 ** this.#attempts);
    // At the maximum, counting stops before the power overflows.
    if (ceiling < this.#max) this.#attempts += 1;
    return this.#random() * ceiling;
  }

  reset() {
    this.#attempts = 0;
  }
}

/**
 * Events:
 * - `state`: `state` or `transport` changed;
 * - `open`: connected or reconnected; earlier messages may be missing;
 * - `message`: `detail` is the parsed message.
 *
 * `state` is `connecting`, `open`, or `waiting` until `retryAt` (ms since the epoch).
 * `transport` is `socket` or `stream`.
 */
export class Connection extends EventTarget {
  state = "connecting";
  transport = "socket";
  retryAt = null;

  #transports;
  #backoff;
  #socket = null;
  #timer = null;
  #attemptedAt = 0;
  #openedAt = 0;
  #silentSockets = 0;
  #hasReceived = false;

  /** A WebSocket that is tried while a stream is open. */
  #upgrade = null;
  #upgradeTimer = null;
  #upgradeAfter = UPGRADE_AFTER_MS.initial;

  /** `socket` opens a WebSocket, and `stream`, if there is one, its replacement. */
  constructor({ socket, stream = null }, backoff = new Backoff()) {
    super();
    this.#transports = { socket, stream };
    this.#backoff = backoff;
  }

  start() {
    this.#connect();
  }

  /** Sends a message if the connection is open, and returns whether it is. */
  send(message) {
    if (this.state !== "open") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /**
   * Reconnects without further delay because the network or the tab is back. Checks a
   * connection that is open.
   */
  wake() {
    if (this.state === "open") {
      this.#ping();
      if (this.transport === "stream") this.#tryUpgrade();
      return;
    }
    this.#backoff.reset();
    if (this.state === "connecting") {
      if (Date.now() - this.#attemptedAt < MIN_ATTEMPT_MS) return;
      discard(this.#socket);
    }
    this.#connect();
  }

  #connect() {
    this.#attemptedAt = Date.now();
    const useStream = this.#transports.stream && this.#silentSockets >= MAX_SILENT_SOCKETS;
    this.transport = useStream ? "stream" : "socket";
    this.#setState("connecting");
    const socket = this.#transports[this.transport]();
    this.#setTimer(OPEN_TIMEOUT_MS, () => this.#disconnect());
    socket.onopen = () => this.#opened(socket, this.transport);
    this.#attach(socket);
  }

  #attach(socket) {
    this.#socket = socket;
    this.#hasReceived = false;
    socket.onmessage = ({ data }) => {
      this.#hasReceived = true;
      // A host that responds and then disconnects does not reset the backoff.
      if (Date.now() - this.#openedAt > PING_AFTER_MS) this.#backoff.reset();
      this.#setTimer(PING_AFTER_MS, () => this.#ping());
      const message = parse(data);
      if (message) this.dispatchEvent(new CustomEvent("message", { detail: message }));
    };
    socket.onclose = () => this.#disconnect();
  }

  #opened(socket, transport) {
    this.transport = transport;
    this.#openedAt = Date.now();
    this.#setState("open");
    this.#ping();
    if (transport === "stream") {
      // The first WebSockets may have failed because the host was down.
      if (this.#upgradeAfter === UPGRADE_AFTER_MS.initial) this.#tryUpgrade();
      else this.#scheduleUpgrade();
    }
    this.dispatchEvent(new Event("open"));
  }

  #ping() {
    this.#socket.send(PING);
    this.#setTimer(PONG_TIMEOUT_MS, () => this.#disconnect());
  }

  #disconnect() {
    this.#cancelUpgrade();
    discard(this.#socket);
    this.#socket = null;
    // After a stream, WebSockets are tried first.
    this.#silentSockets = this.transport === "stream" || this.#hasReceived ? 0 : this.#silentSockets + 1;
    const delay = this.#backoff.next();
    this.#setTimer(delay, () => this.#connect());
    this.#setState("waiting", Date.now() + delay);
  }

  /**
   * Opens a WebSocket beside the stream, and switches to it after its first message:
   * some proxies accept WebSockets and forward nothing.
   */
  #tryUpgrade() {
    if (this.#upgrade) return;
    clearTimeout(this.#upgradeTimer);
    const socket = this.#transports.socket();
    this.#upgrade = socket;
    const fail = () => {
      this.#cancelUpgrade();
      this.#scheduleUpgrade();
    };
    this.#upgradeTimer = setTimeout(fail, OPEN_TIMEOUT_MS);
    socket.onclose = fail;
    socket.onopen = () => socket.send(PING);
    socket.onmessage = (message) => {
      clearTimeout(this.#upgradeTimer);
      this.#upgrade = null;
      this.#upgradeAfter = UPGRADE_AFTER_MS.initial;
      this.#silentSockets = 0;
      discard(this.#socket);
      this.#attach(socket);
      this.#opened(socket, "socket");
      socket.onmessage(message);
    };
  }

  #scheduleUpgrade() {
    this.#upgradeTimer = setTimeout(() => this.#tryUpgrade(), this.#upgradeAfter);
    this.#upgradeAfter = Math.min(this.#upgradeAfter * 2, UPGRADE_AFTER_MS.max);
  }

  #cancelUpgrade() {
    clearTimeout(this.#upgradeTimer);
    if (this.#upgrade) discard(this.#upgrade);
    this.#upgrade = null;
  }

  #setState(state, retryAt = null) {
    this.state = state;
    this.retryAt = retryAt;
    this.dispatchEvent(new Event("state"));
  }

  /** Replaces the only timer: each state has one. */
  #setTimer(delay, callback) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(callback, delay);
  }
}

/** Closes a socket and ignores its events: a dead one can take minutes to close. */
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
