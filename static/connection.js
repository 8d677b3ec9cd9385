// Reconnects with backoff, and falls back to an event stream where WebSockets fail.

const PING_AFTER_MS = 5_000;
const PONG_TIMEOUT_MS = 4_000;
const OPEN_TIMEOUT_MS = 6_000;
const MIN_ATTEMPT_MS = 1_000;
/** The stream is tried after this many consecutive WebSockets without a message. */
const MAX_SILENT_SOCKETS = 2;
const UPGRADE_AFTER_MS = { initial: 60_000, max: 600_000 };

const PING = JSON.stringify({ event: "ping" });

/** Full jitter, so that the clients of a lost host do not all return at the same time. */
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
    // Stops before the power overflows.
    if (ceiling < this.#max) this.#attempts += 1;
    return this.#random() * ceiling;
  }

  reset() {
    this.#attempts = 0;
  }
}

/**
 * Events: `state`, `open` (earlier messages may be missing, unless its `detail.resumes`), `message`.
 * `state` is `connecting`, `open`, or `waiting` until `retryAt`.
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

  #upgrade = null;
  #upgradeTimer = null;
  #upgradeAfter = UPGRADE_AFTER_MS.initial;

  constructor({ socket, stream = null }, backoff = new Backoff()) {
    super();
    this.#transports = { socket, stream };
    this.#backoff = backoff;
  }

  start() {
    this.#connect();
  }

  send(message) {
    if (this.state !== "open") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Reconnects or pings at once, because the network or the tab is back. */
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
    this.dispatchEvent(new CustomEvent("open", { detail: { resumes: socket.resumes === true } }));
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

  /** Waits for a first message: some proxies accept WebSockets and forward nothing. */
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

  #setTimer(delay, callback) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(callback, delay);
  }
}

/** Ignores further events: a dead socket can take minutes to close. */
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
