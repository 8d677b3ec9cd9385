// A WebSocket that reconnects and resumes. The types describe the interface, docs/client.md explains it.

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/** The subprotocol of servers that can resume: docs/subprotocol.md. */
const ROOMS = "rooms.v1";
const ROOMS_PING = '{"$":"ping"}';
/** With more, the URL would become too long. */
const MAX_POSITIONS = 100;
/** How many items of a channel are held while earlier ones are missing. */
const MAX_HELD = 100;

const MIN_ATTEMPT_MS = 1_000;
/** The stream is tried after this many consecutive WebSockets that carried nothing. */
const MAX_SILENT_SOCKETS = 2;
const STREAM_TIMEOUT_MS = 25_000;
const UPGRADE_AFTER_MS = 60_000;
const MAX_UPGRADE_AFTER_MS = 600_000;

const EVENTS = ["connecting", "open", "message", "item", "count", "refetch", "error", "close"];

/** Full jitter, so that the clients of a lost server do not all return at the same time. */
export class Backoff {
  #initial;
  #max;
  #random;
  #ceiling;

  constructor({ initial = 500, max = 30_000, random = Math.random } = {}) {
    this.#initial = this.#ceiling = initial;
    this.#max = max;
    this.#random = random;
  }

  next() {
    const delay = this.#random() * this.#ceiling;
    this.#ceiling = Math.min(this.#max, this.#ceiling * 2);
    return delay;
  }

  reset() {
    this.#ceiling = this.#initial;
  }
}

export class ReconnectingSocket extends EventTarget {
  readyState = CONNECTING;
  retryAt = null;
  transport = "socket";
  url = "";
  positions;

  #source;
  #protocols;
  #options;
  #backoff;
  #listeners;
  #binaryType = "blob";

  /** The connection, or the attempt to connect. */
  #link = null;
  #timer;
  #attemptedAt;
  #silentSockets = 0;

  #queue = [];
  #queuedBytes = 0;
  /** The items of each channel that came before missing ones. */
  #gaps = new Map();
  /** The versions of the counts. */
  #versions = new Map();

  /** A WebSocket that is tried while a stream is open. */
  #candidate = null;
  #upgradeTimer;
  #upgradeAfter = UPGRADE_AFTER_MS;

  constructor(url, protocols = [], options = {}) {
    super();
    this.#source = url;
    this.#protocols = [protocols].flat();
    this.#options = {
      stream: this.#protocols.includes(ROOMS),
      connectTimeout: 6_000,
      pingAfter: 5_000,
      pongTimeout: 4_000,
      maxBufferedBytes: 1_048_576,
      maxBufferedMessages: 1_000,
      shouldReconnect: ({ code }) => code !== 1008 && code < 4000,
    };
    for (const name in options) this.#options[name] = options[name] ?? this.#options[name];
    this.#backoff = new Backoff(options.backoff);
    this.positions = new Map(options.positions);
    for (const type of EVENTS) {
      this[`on${type}`] = null;
      this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    }
    this.#listen();
    this.#connect();
  }

  get protocol() {
    return this.#link?.socket?.protocol ?? "";
  }

  get extensions() {
    return this.#link?.socket?.extensions ?? "";
  }

  get bufferedAmount() {
    return this.#queuedBytes + (this.#link?.socket?.bufferedAmount ?? 0);
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    this.#binaryType = type;
    if (this.#link?.socket) this.#link.socket.binaryType = type;
  }

  send(data) {
    if (this.readyState > OPEN) return;
    const { maxBufferedBytes, maxBufferedMessages } = this.#options;
    const canSend = this.readyState === OPEN && this.#link.socket.send;
    // A blob has the size in UTF-8, and keeps the content as it is now.
    const copy = canSend ? null : new Blob([data]);
    const size = copy?.size ?? 0;
    if (this.bufferedAmount + size > maxBufferedBytes || this.#queue.length >= maxBufferedMessages) {
      throw new DOMException("the send buffer is full", "QuotaExceededError");
    }
    if (canSend) {
      this.#link.socket.send(data);
    } else {
      this.#queue.push(typeof data === "string" ? data : copy);
      this.#queuedBytes += size;
    }
  }

  close(code, reason = "") {
    if (this.readyState > OPEN) return;
    if (this.readyState === OPEN && this.transport === "socket") {
      // Throws if the code is invalid.
      this.#link.socket.close(code, reason);
      this.readyState = CLOSING;
      this.#loseAfter(this.#options.connectTimeout);
    } else {
      this.readyState = CLOSING;
      this.#lose({ code: code ?? 1005, reason, wasClean: true });
    }
  }

  reconnect() {
    if (this.readyState === OPEN) this.#lose({ code: 1000, wasClean: true });
    this.#listen();
    this.#restart();
  }

  #listen() {
    this.#listeners?.abort();
    this.#listeners = new AbortController();
    const { signal } = this.#listeners;
    globalThis.addEventListener?.("online", () => this.#wake(), { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || this.#wake(), { signal });
  }

  /** Reconnects or pings at once, because the network or the page is back. */
  #wake() {
    if (this.readyState === OPEN) {
      this.#ping();
      if (this.#link.isStream) this.#tryUpgrade();
    } else if (this.readyState === CONNECTING) {
      const hasJustBegun = this.#link && Date.now() - this.#attemptedAt < MIN_ATTEMPT_MS;
      if (!hasJustBegun) this.#restart();
    }
  }

  #restart() {
    this.#backoff.reset();
    this.#discardAll();
    this.#connect();
  }

  #connect() {
    const isStream = this.#options.stream && this.#silentSockets >= MAX_SILENT_SOCKETS;
    this.#attemptedAt = Date.now();
    this.readyState = CONNECTING;
    this.retryAt = null;
    this.transport = isStream ? "stream" : "socket";
    this.#loseAfter(this.#options.connectTimeout);
    this.#link = this.#dial(isStream);
    this.#emit("connecting");
  }

  #dial(isStream) {
    const link = { isStream, socket: null };
    const open = async () => {
      // The function for the URL may use what is created after this socket.
      await null;
      link.url = await this.#resolveUrl(isStream);
      if (link.isDiscarded) return;
      if (link === this.#link) this.url = link.url;
      const socket = isStream ? openStream(link.url, this.#options.stream) : new WebSocket(link.url, this.#protocols);
      socket.binaryType = this.#binaryType;
      socket.onopen = () => this.#handleOpen(link);
      socket.onmessage = (event) => this.#handleMessage(link, event);
      socket.onclose = (event) => this.#handleClose(link, event);
      link.socket = socket;
    };
    open().catch((error) => link.isDiscarded || this.#handleClose(link, { reason: String(error), error }));
    return link;
  }

  async #resolveUrl(isStream) {
    const source = (isStream && this.#options.stream.url) || this.#source;
    const reference = typeof source === "function" ? await source() : source;
    const url = new URL(reference, globalThis.document?.baseURI ?? globalThis.location);
    url.protocol = isStream ? url.protocol.replace("ws", "http") : url.protocol.replace("http", "ws");
    if (this.#protocols.includes(ROOMS) && this.positions.size <= MAX_POSITIONS) {
      for (const [channel, id] of this.positions) {
        url.search += `${url.search && "&"}resume=${id},${encodeURIComponent(channel)}`;
      }
    }
    return url.href;
  }

  #handleOpen(link) {
    link.isRooms = this.#protocols.includes(ROOMS) && (link.isStream || link.socket.protocol === ROOMS);
    link.ping = link.socket.send && (link.isRooms ? ROOMS_PING : this.#options.ping);
    // A server of rooms sends the first message.
    if (link.isRooms) return;
    // Some proxies accept WebSockets and forward nothing.
    if (link === this.#candidate && link.ping) link.socket.send(link.ping);
    else this.#open(link);
  }

  #handleMessage(link, event) {
    const frame = link.isRooms ? parseFrame(event.data) : null;
    if (frame === undefined) return;
    link.receivedAt = Date.now();
    link.hasPongs ||= frame?.$ === "pong";
    const isOpening = frame?.$ === "open";
    if (isOpening) this.#versions.clear();
    if (!link.openedAt) this.#open(link, isOpening ? frame.recovered : undefined);
    else if (isOpening && frame.recovered === undefined) this.#refetch();
    if (link.isDiscarded) return;
    this.#watch();
    if (frame) this.#handleFrame(link, frame);
    else if (event.data !== this.#options.pong) this.dispatchEvent(new MessageEvent("message", event));
  }

  #handleFrame(link, frame) {
    const { $: type, channel, id, count, version } = frame;
    if (type === "item" && Number.isSafeInteger(id)) {
      this.#receive(link, frame);
    } else if (type === "reset") {
      this.#refetch(channel);
    } else if (type === "count" && !(version <= this.#versions.get(channel))) {
      this.#versions.set(channel, version);
      this.#emit(type, { channel, count });
    }
  }

  #receive(link, item) {
    const { channel, id } = item;
    const last = this.positions.get(channel);
    if (id <= last) return;
    let gap = this.#gaps.get(channel);
    if (id > last + 1) {
      if (!link.isStream && !(gap?.items.size >= MAX_HELD)) {
        gap ??= { items: new Map() };
        gap.items.set(id, item);
        this.#gaps.set(channel, gap);
        if (gap.askedAfter !== last) link.socket.send(JSON.stringify({ $: "resume", channel, id: last }));
        gap.askedAfter = last;
        return;
      }
      this.#refetch(channel);
      gap = null;
    }
    for (let next = item; next && !link.isDiscarded; next = gap?.items.get(next.id + 1)) {
      gap?.items.delete(next.id);
      this.positions.set(channel, next.id);
      this.#emit("item", { channel, id: next.id, data: next.data });
    }
  }

  /** Forgets the position in a channel, or in all of them. */
  #refetch(channel) {
    for (const map of [this.positions, this.#gaps]) {
      if (channel === undefined) map.clear();
      else map.delete(channel);
    }
    this.#emit("refetch", { channel });
  }

  /** `recovered` is undefined if the server has sent nothing of what was missed. */
  #open(link, recovered) {
    if (link === this.#candidate) {
      discard(this.#link);
      clearTimeout(this.#upgradeTimer);
      this.#link = link;
      this.#candidate = null;
      this.#upgradeAfter = UPGRADE_AFTER_MS;
    }
    link.openedAt = Date.now();
    this.readyState = OPEN;
    this.transport = link.isStream ? "stream" : "socket";
    this.url = link.url;
    this.#gaps.clear();
    if (link.socket.send) {
      for (const data of this.#queue.splice(0)) link.socket.send(data);
      this.#queuedBytes = 0;
    }
    this.#watch();
    if (!link.receivedAt) this.#ping();
    if (link.isStream) {
      // The first WebSockets may have failed because the server was down.
      if (this.#upgradeAfter === UPGRADE_AFTER_MS) this.#tryUpgrade();
      else this.#scheduleUpgrade();
    }
    this.#emit("open", { recovered: recovered === true });
    if (recovered === undefined && !link.isDiscarded) this.#refetch();
  }

  #handleClose(link, event) {
    if (link === this.#candidate) this.#failUpgrade();
    else this.#lose(event);
  }

  #lose({ code = 1006, reason = "", wasClean = false, error }) {
    const { pingAfter, shouldReconnect } = this.#options;
    const { socket, isStream, ping, openedAt, receivedAt } = this.#link ?? {};
    // A server that responds and then disconnects does not reset the backoff.
    if ((ping ? receivedAt : Date.now()) - openedAt > pingAfter) this.#backoff.reset();
    // After a stream, WebSockets are tried first.
    if (isStream || receivedAt || (openedAt && !ping)) this.#silentSockets = 0;
    else if (socket) this.#silentSockets += 1;
    this.#discardAll();
    const event = { code, reason, wasClean };
    this.retryAt = null;
    if (this.readyState === CLOSING || !shouldReconnect(event)) {
      this.readyState = CLOSED;
      this.#listeners.abort();
      this.#queue = [];
      this.#queuedBytes = 0;
    } else {
      const delay = this.#backoff.next();
      this.readyState = CONNECTING;
      this.retryAt = Date.now() + delay;
      this.#setTimer(delay, () => {
        this.retryAt = null;
        if (!isOffline(this.url)) this.#connect();
      });
    }
    if (!wasClean) this.#emit("error", { error });
    this.#emit("close", event);
  }

  #loseAfter(delay) {
    this.#setTimer(delay, () => this.#lose({ reason: "timeout" }));
  }

  #watch() {
    if (this.readyState !== OPEN) return;
    const { ping, hasPongs } = this.#link;
    if (ping) this.#setTimer(this.#options.pingAfter, () => this.#ping());
    else if (hasPongs) this.#loseAfter(STREAM_TIMEOUT_MS);
    else clearTimeout(this.#timer);
  }

  #ping() {
    const { ping, socket } = this.#link;
    if (!ping) return;
    socket.send(ping);
    this.#loseAfter(this.#options.pongTimeout);
  }

  #tryUpgrade() {
    if (this.#candidate) return;
    clearTimeout(this.#upgradeTimer);
    this.#upgradeTimer = setTimeout(() => this.#failUpgrade(), this.#options.connectTimeout);
    this.#candidate = this.#dial(false);
  }

  #failUpgrade() {
    discard(this.#candidate);
    this.#candidate = null;
    this.#scheduleUpgrade();
  }

  #scheduleUpgrade() {
    clearTimeout(this.#upgradeTimer);
    this.#upgradeTimer = setTimeout(() => this.#tryUpgrade(), this.#upgradeAfter);
    this.#upgradeAfter = Math.min(this.#upgradeAfter * 2, MAX_UPGRADE_AFTER_MS);
  }

  #discardAll() {
    clearTimeout(this.#timer);
    clearTimeout(this.#upgradeTimer);
    discard(this.#link);
    discard(this.#candidate);
    this.#link = this.#candidate = null;
  }

  #setTimer(delay, callback) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(callback, delay);
  }

  #emit(type, fields) {
    this.dispatchEvent(Object.assign(new Event(type), fields));
  }
}

for (const it of [ReconnectingSocket, ReconnectingSocket.prototype]) {
  Object.assign(it, { CONNECTING, OPEN, CLOSING, CLOSED });
}

/** Ignores further events: a dead socket can take minutes to close. */
function discard(link) {
  if (!link) return;
  link.isDiscarded = true;
  const { socket } = link;
  if (!socket) return;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
}

/** Opens an event stream with the interface of a WebSocket. It has `send` only if there is such an option. */
function openStream(url, { events = ["message"], withCredentials, send }) {
  const source = new EventSource(url, { withCredentials });
  const socket = { close: () => source.close() };
  // The browser reconnects by itself, so only the first `open` counts.
  source.addEventListener("open", () => socket.onopen?.(), { once: true });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) socket.onclose?.({});
  };
  for (const type of events) source.addEventListener(type, (event) => socket.onmessage?.(event));
  if (send) {
    socket.send = async (data) => {
      try {
        for (const reply of (await send(data)) ?? []) socket.onmessage?.({ data: reply });
      } catch (error) {
        // The ping timeout handles it.
        console.warn("request failed:", error);
      }
    };
  }
  return socket;
}

/** Returns null for a message of the application, and undefined for a malformed frame. */
function parseFrame(data) {
  if (typeof data !== "string" || !data.startsWith('{"$":')) return null;
  try {
    return JSON.parse(data);
  } catch {}
}

/** Servers on this machine can be reached without a network. */
function isOffline(url) {
  return globalThis.navigator?.onLine === false && !/^\w+:\/\/(localhost|127\.|\[::1])/.test(url);
}
