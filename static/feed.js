// Keeps the orders in sync with the service.

/**
 * Subscribes first and fetches afterwards, so no order is lost in between. A connection whose URL has `after`
 * delivers what was missed after that position, or asks to reload.
 * Events: `change` (the new orders), `rejected` (a status change).
 */
export class Feed extends EventTarget {
  #socket;
  #orders;
  #fetch;
  #backoff;
  #retryTimer = null;
  #isSyncing = false;
  #needsSync = false;
  #isStale = false;
  #hasFetched = false;
  /** An order arrived that should not exist. */
  #needsReset = false;

  constructor(socket, orders, fetchOrders, backoff) {
    super();
    this.#socket = socket;
    this.#orders = orders;
    this.#fetch = fetchOrders;
    this.#backoff = backoff;
    socket.addEventListener("open", () => {
      const resumes = new URL(socket.url).searchParams.has("after");
      // What could not be fetched before the connection was lost is not repeated.
      if (!resumes || this.#isStale || this.#needsReset || this.#needsSync) this.#reload();
    });
    socket.addEventListener("message", ({ data }) => {
      const message = parse(data);
      if (message) this.handle(message);
    });
  }

  /**
   * The id of the message with the last order before which none is missing. Null if there is none, or nothing
   * was fetched yet.
   */
  get position() {
    const order = this.#hasFetched ? this.#orders.get(this.#orders.completeUntil) : null;
    return order ? `${order.id}-${order.timestamp}` : null;
  }

  /** Fetches changes whose messages were never published. */
  refresh() {
    if (this.#isOpen) this.#reload();
  }

  handle({ event, detail }) {
    if (event === "error" && Number.isSafeInteger(detail?.id)) {
      const { id, status, message } = detail;
      this.dispatchEvent(new CustomEvent("rejected", { detail: { id, status, message: String(message) } }));
      return;
    }
    if (event === "reload") {
      this.#reload();
      return;
    }
    const order = detail?.order;
    if (!Number.isSafeInteger(order?.id)) return;
    if (event === "order-received") {
      const result = this.#orders.receive(order);
      if (result === "new") this.#emitChange([order]);
      if (result === "unexpected") this.#needsReset = true;
      if (result === "unexpected" || this.#orders.hasGap) this.#sync();
    } else if (event === "order-updated") {
      if (this.#orders.update(order)) this.#emitChange([]);
    }
  }

  get #isOpen() {
    return this.#socket.readyState === this.#socket.OPEN;
  }

  #reload() {
    this.#isStale = true;
    this.#sync();
  }

  async #sync() {
    this.#needsSync = true;
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    clearTimeout(this.#retryTimer);
    try {
      while (this.#needsSync) {
        this.#needsSync = false;
        await this.#fetchMissing();
      }
      this.#hasFetched = true;
      this.#backoff.reset();
    } catch (error) {
      console.warn("failed to fetch orders:", error);
      this.#needsSync = true;
      // Without a connection, the next one that opens fetches them.
      if (this.#isOpen) {
        this.#retryTimer = setTimeout(() => this.#sync(), this.#backoff.next());
      }
    } finally {
      this.#isSyncing = false;
    }
  }

  async #fetchMissing() {
    const { newest, oldest } = this.#orders;
    if (this.#needsReset) {
      const latest = await this.#fetch(null);
      this.#needsReset = this.#isStale = false;
      this.#emitChange(this.#orders.resync(latest, newest));
    } else if (this.#isStale) {
      const orders = await this.#fetch(oldest === null ? null : oldest - 1);
      this.#isStale = false;
      if (this.#orders.isContradictedBy(orders, newest)) {
        this.#needsReset = this.#needsSync = true;
      } else {
        this.#emitChange(this.#orders.merge(orders));
      }
    } else {
      const added = this.#orders.merge(await this.#fetch(this.#orders.completeUntil));
      if (added.length > 0) this.#emitChange(added);
    }
  }

  #emitChange(added) {
    this.dispatchEvent(new CustomEvent("change", { detail: added }));
  }
}

/** Returns the message in a text, or null if it is not valid. */
function parse(text) {
  try {
    const message = JSON.parse(text);
    return typeof message?.event === "string" ? message : null;
  } catch {
    return null;
  }
}
