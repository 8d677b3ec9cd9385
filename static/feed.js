// Brings orders from the service to the rail: live ones, and those that were missed.

import { Backoff } from "./connection.js";

/**
 * Subscribes first and fetches then: once the socket is open nothing new is
 * missed, and what was missed before is asked for: orders, and what became of
 * those that are shown.
 *
 * Events:
 * - `change`: `detail` is the orders that were not there before;
 * - `refused`: `detail` is `{ id, status, message }`, a step that the service refused.
 */
export class Feed extends EventTarget {
  #connection;
  #orders;
  #fetch;
  #backoff;
  #retry = null;
  #asking = false;
  #askAgain = false;
  /** Something may have happened to orders that are shown. */
  #stale = false;
  #odd = false;

  /** `fetchOrders(after)` promises the orders after an id; with null, the latest. */
  constructor(connection, orders, fetchOrders, backoff = new Backoff()) {
    super();
    this.#connection = connection;
    this.#orders = orders;
    this.#fetch = fetchOrders;
    this.#backoff = backoff;
    connection.addEventListener("open", () => {
      this.#stale = true;
      this.#ask();
    });
    connection.addEventListener("message", ({ detail }) => this.take(detail));
  }

  /** Asks for what nobody told of: a publication that failed leaves no trace. */
  refresh() {
    if (this.#connection.state !== "open") return;
    this.#stale = true;
    this.#ask();
  }

  /** Takes a message of the service, from the connection or from elsewhere. */
  take({ event, detail }) {
    if (event === "error" && Number.isSafeInteger(detail?.id)) {
      const { id, status, message } = detail;
      this.dispatchEvent(new CustomEvent("refused", { detail: { id, status, message: String(message) } }));
      return;
    }
    const order = detail?.order;
    if (!Number.isSafeInteger(order?.id)) return;
    if (event === "order-received") {
      const kind = this.#orders.receive(order);
      if (kind === "new") this.#tell([order]);
      if (kind === "odd") this.#odd = true;
      if (kind === "odd" || this.#orders.hasGap) this.#ask();
    } else if (event === "order-updated") {
      if (this.#orders.update(order)) this.#tell([]);
    }
  }

  /** One question at a time; whatever comes up meanwhile is one more. */
  async #ask() {
    this.#askAgain = true;
    if (this.#asking) return;
    this.#asking = true;
    clearTimeout(this.#retry);
    try {
      while (this.#askAgain) {
        this.#askAgain = false;
        await this.#catchUp();
      }
      this.#backoff.reset();
    } catch (error) {
      console.warn("orders could not be fetched:", error);
      // Without a socket there is no need: the next one that opens asks.
      if (this.#connection.state === "open") {
        this.#retry = setTimeout(() => this.#ask(), this.#backoff.next());
      }
    } finally {
      this.#asking = false;
    }
  }

  async #catchUp() {
    const { newest, oldest } = this.#orders;
    if (this.#odd) {
      const latest = await this.#fetch(null);
      this.#odd = this.#stale = false;
      this.#tell(this.#orders.settle(latest, newest));
    } else if (this.#stale) {
      const orders = await this.#fetch(oldest === null ? null : oldest - 1);
      this.#stale = false;
      if (this.#orders.contradicts(orders, newest)) {
        this.#odd = this.#askAgain = true;
      } else {
        this.#tell(this.#orders.fill(orders));
      }
    } else {
      const added = this.#orders.fill(await this.#fetch(this.#orders.complete));
      if (added.length > 0) this.#tell(added);
    }
  }

  #tell(added) {
    this.dispatchEvent(new CustomEvent("change", { detail: added }));
  }
}
