// The orders on the page: the newest ones, and older ones that the user asked for.

import { isLater } from "./changes.js";

/** For orders that arrive with an older status. */
const MAX_UPDATES = 200;
const FIRST_ID = 100;
/** How many orders the service stores. */
const MAX_STORED = 1_000;
const BATCH_SIZE = 60;
const RETRY_AFTER_MS = 2_000;

/** Ids rise by one, so a missing id is a missing order. */
export class Orders {
  #limit;
  #byId = new Map();
  #completeUntil = null;
  #newest = null;
  #updates = new Map();

  constructor(limit) {
    this.#limit = limit;
  }

  /** Oldest first. */
  list() {
    return [...this.#byId.values()].sort((a, b) => a.id - b.id);
  }

  get(id) {
    return this.#byId.get(id);
  }

  get oldest() {
    return this.#byId.size === 0 ? null : Math.min(...this.#byId.keys());
  }

  get size() {
    return this.#byId.size;
  }

  get newest() {
    return this.#newest;
  }

  /** No order up to this id is missing; null before the first response. */
  get completeUntil() {
    return this.#completeUntil;
  }

  get hasGap() {
    return this.#newest !== this.#completeUntil;
  }

  set limit(limit) {
    this.#limit = limit;
    for (const { id } of this.list().slice(0, -limit)) this.#byId.delete(id);
  }

  /** Adds a live order: `unexpected` if it is late or the store was reset. */
  receive(order) {
    const known = this.#byId.get(order.id);
    if (known) return this.#isSame(order) ? (this.#replace(order), "duplicate") : "unexpected";
    if (this.#completeUntil !== null && order.id <= this.#completeUntil) return "unexpected";
    const added = this.#add(order);
    this.#extendComplete();
    return added ? "new" : "duplicate";
  }

  /** Remembers the update, since a response from before it may still arrive. */
  update(order) {
    this.#remember(order);
    return this.#replace(order);
  }

  /** Adds all orders after `completeUntil` or an earlier id, and returns the new ones. */
  merge(orders) {
    const added = orders.filter((order) => {
      this.#replace(order);
      return this.#add(order);
    });
    const last = orders.at(-1)?.id ?? null;
    if (last !== null && (this.#completeUntil === null || last > this.#completeUntil)) this.#completeUntil = last;
    this.#extendComplete();
    return added;
  }

  prepend(orders) {
    for (const order of orders.toReversed()) {
      if (this.#byId.size < this.#limit) this.#byId.set(order.id, this.#withUpdate(order));
    }
  }

  /** Whether the service's store was reset. `newest` is the newest id from before the request. */
  isContradictedBy(orders, newest) {
    if (newest === null) return false;
    const last = orders.at(-1)?.id ?? null;
    return last === null || last < newest || orders.some((order) => !this.#isSame(order));
  }

  /** Like `merge`, but first drops all orders if the store was reset. */
  resync(latest, newest) {
    const last = latest.at(-1);
    const isOther = latest.some((order) => !this.#isSame(order));
    if (isOther || (last !== undefined && last.id < newest)) {
      this.#byId.clear();
      this.#completeUntil = this.#newest = null;
    }
    return this.merge(latest);
  }

  #isSame({ id, timestamp }) {
    const known = this.#byId.get(id);
    return known === undefined || known.timestamp === timestamp;
  }

  #replace(order) {
    const known = this.#byId.get(order.id);
    if (!known || !isLater(order.status, known.status)) return false;
    this.#byId.set(order.id, order);
    return true;
  }

  #remember(order) {
    const latest = this.#withUpdate(order);
    this.#updates.delete(order.id);
    this.#updates.set(order.id, latest);
    if (this.#updates.size > MAX_UPDATES) this.#updates.delete(this.#updates.keys().next().value);
  }

  #withUpdate(order) {
    const update = this.#updates.get(order.id);
    const isOutdated = update?.timestamp === order.timestamp && isLater(update.status, order.status);
    return isOutdated ? update : order;
  }

  #add(order) {
    if (this.#byId.has(order.id)) return false;
    if (this.#byId.size >= this.#limit) {
      const { oldest } = this;
      if (order.id < oldest) return false;
      this.#byId.delete(oldest);
    }
    this.#byId.set(order.id, this.#withUpdate(order));
    if (this.#newest === null || order.id > this.#newest) this.#newest = order.id;
    return true;
  }

  #extendComplete() {
    if (this.#completeUntil === null) return;
    while (this.#byId.has(this.#completeUntil + 1)) this.#completeUntil += 1;
  }
}

export class History {
  #orders;
  #fetch;
  #fetching = null;
  #first = FIRST_ID;

  constructor(orders, fetchOrders) {
    this.#orders = orders;
    this.#fetch = fetchOrders;
  }

  get hasMore() {
    const { oldest, size } = this.#orders;
    return oldest !== null && oldest > FIRST_ID && oldest !== this.#first && size < MAX_STORED;
  }

  /** Resolves to whether it added orders. Raises their limit; the caller resets it. */
  fetchMore() {
    if (!this.hasMore) return Promise.resolve(false);
    if (!this.#fetching) {
      const end = () => (this.#fetching = null);
      this.#fetching = this.#fetchBatch();
      this.#fetching.then(end, () => setTimeout(end, RETRY_AFTER_MS));
    }
    return this.#fetching;
  }

  async #fetchBatch() {
    // A live order must not drop the one that the batch ends at.
    this.#orders.limit = MAX_STORED;
    const { oldest } = this.#orders;
    const orders = await this.#fetch(Math.max(oldest - 1 - BATCH_SIZE, 0), BATCH_SIZE);
    // Newer orders replace those that the service has dropped.
    const older = orders.filter(({ id }) => id < oldest);
    if (older.length < BATCH_SIZE) this.#first = older[0]?.id ?? oldest;
    this.#orders.prepend(older);
    return older.length > 0;
  }
}
