// The orders on the rail: each one once, by id, the latest few, and those before them
// for who looks back. Nothing here knows of a page.

import { isLater } from "./changes.js";

/** How many changes are remembered, for orders that come with an older status. */
const REMEMBERED = 200;
/** The first id there can be. */
const FIRST = 100;
/** How many orders the service keeps, and so this does at most. */
const KEPT = 1_000;
/** How many of them are fetched at once. */
const PART = 60;
/** How long, in ms, a fetch that failed stands for the next. */
const REST = 2_000;

/** Ids rise by one, so that a missing one shows. */
export class Orders {
  #limit;
  #shown = new Map();
  #complete = null;
  #newest = null;
  /** By id: the orders that were heard to have changed, the latest last. */
  #changed = new Map();

  constructor(limit) {
    this.#limit = limit;
  }

  /** What to show, oldest first. */
  list() {
    return [...this.#shown.values()].sort((a, b) => a.id - b.id);
  }

  /** The order with this id, if it is shown. */
  get(id) {
    return this.#shown.get(id);
  }

  /** The lowest id shown; null when there is none. */
  get oldest() {
    return this.#shown.size === 0 ? null : Math.min(...this.#shown.keys());
  }

  /** How many are shown. */
  get size() {
    return this.#shown.size;
  }

  /** The highest id seen; null before the first order. */
  get newest() {
    return this.#newest;
  }

  /** Up to this id nothing is missing; null before the first answer with orders. */
  get complete() {
    return this.#complete;
  }

  /** Whether an order that came shows that one before it did not. */
  get hasGap() {
    return this.#newest !== this.#complete;
  }

  /** How many are shown; with a lower one, the oldest go. */
  set limit(limit) {
    this.#limit = limit;
    for (const { id } of this.list().slice(0, -limit)) this.#shown.delete(id);
  }

  /**
   * Takes an order as it came in and says what it is: `new`, `known`, or `odd`,
   * when there should be no such order: it is late, or the kitchen began anew.
   */
  receive(order) {
    const shown = this.#shown.get(order.id);
    if (shown) return this.#isSame(order) ? (this.#replace(order), "known") : "odd";
    if (this.#complete !== null && order.id <= this.#complete) return "odd";
    const added = this.#add(order);
    this.#close();
    return added ? "new" : "known";
  }

  /**
   * Takes an order that changed, if it is shown and if that is news: what comes
   * late may be older than what is known. Says whether it was. One that is not
   * shown may be yet, by an answer from before it changed.
   */
  update(order) {
    this.#remember(order);
    return this.#replace(order);
  }

  /**
   * Takes the answer to "what came after `complete`?", or after an id before it,
   * and returns those that are new. An id missing in it is not waited for.
   */
  fill(orders) {
    const added = orders.filter((order) => {
      this.#replace(order);
      return this.#add(order);
    });
    const last = orders.at(-1)?.id ?? null;
    if (last !== null && (this.#complete === null || last > this.#complete)) this.#complete = last;
    this.#close();
    return added;
  }

  /** Takes orders that are older than all, the latest of them as far as there is room. */
  extend(orders) {
    for (const order of orders.toReversed()) {
      if (this.#shown.size < this.#limit) this.#shown.set(order.id, this.#latest(order));
    }
  }

  /**
   * Whether an answer that should hold all from `oldest` to `newest`, what they
   * were when it was asked for, comes from a kitchen that began anew.
   */
  contradicts(orders, newest) {
    if (newest === null) return false;
    const last = orders.at(-1)?.id ?? null;
    return last === null || last < newest || orders.some((order) => !this.#isSame(order));
  }

  /**
   * Takes the latest orders, asked for when an order was odd and `newest` was
   * what it is given as. If they contradict what is shown, the kitchen began
   * anew, and so does this. Returns those that are new.
   */
  settle(latest, newest) {
    const last = latest.at(-1);
    const other = latest.some((order) => !this.#isSame(order));
    if (other || (last !== undefined && last.id < newest)) {
      this.#shown.clear();
      this.#complete = this.#newest = null;
    }
    return this.fill(latest);
  }

  /** Whether an order is, but for its status, the one that is shown with its id, if any. */
  #isSame({ id, timestamp }) {
    const shown = this.#shown.get(id);
    return shown === undefined || shown.timestamp === timestamp;
  }

  #replace(order) {
    const shown = this.#shown.get(order.id);
    if (!shown || !isLater(order.status, shown.status)) return false;
    this.#shown.set(order.id, order);
    return true;
  }

  #remember(order) {
    const known = this.#latest(order);
    this.#changed.delete(order.id);
    this.#changed.set(order.id, known);
    if (this.#changed.size > REMEMBERED) this.#changed.delete(this.#changed.keys().next().value);
  }

  /** The order as it was last heard of. */
  #latest(order) {
    const changed = this.#changed.get(order.id);
    const isLess = changed?.timestamp === order.timestamp && isLater(changed.status, order.status);
    return isLess ? changed : order;
  }

  /** Says no to an order that is there already, or older than all of a full rail. */
  #add(order) {
    if (this.#shown.has(order.id)) return false;
    if (this.#shown.size >= this.#limit) {
      const { oldest } = this;
      if (order.id < oldest) return false;
      this.#shown.delete(oldest);
    }
    this.#shown.set(order.id, this.#latest(order));
    if (this.#newest === null || order.id > this.#newest) this.#newest = order.id;
    return true;
  }

  /** What came early joins what is complete. */
  #close() {
    if (this.#complete === null) return;
    while (this.#shown.has(this.#complete + 1)) this.#complete += 1;
  }
}

/** What is further back than the rail holds: fetched part by part. */
export class Past {
  #orders;
  #fetch;
  #fetching = null;
  /** The id of the first order that the service has, as far as it is known. */
  #first = FIRST;

  /** `orders` takes what `fetchOrders(after, limit)` promises. */
  constructor(orders, fetchOrders) {
    this.#orders = orders;
    this.#fetch = fetchOrders;
  }

  /** Whether there may be orders before all that are there. */
  get hasMore() {
    const { oldest, size } = this.#orders;
    return oldest !== null && oldest > FIRST && oldest !== this.#first && size < KEPT;
  }

  /**
   * Fetches some of them, one part at a time, and promises whether any came. From
   * now on `orders` has room for all that there are: set its limit to end that.
   */
  fetch() {
    if (!this.hasMore) return Promise.resolve(false);
    if (!this.#fetching) {
      const end = () => (this.#fetching = null);
      this.#fetching = this.#part();
      this.#fetching.then(end, () => setTimeout(end, REST));
    }
    return this.#fetching;
  }

  async #part() {
    // First, or orders that come meanwhile would push out what the answer joins.
    this.#orders.limit = KEPT;
    const { oldest } = this.#orders;
    const answer = await this.#fetch(Math.max(oldest - 1 - PART, 0), PART);
    // In place of those that are too old to be kept, it has others.
    const older = answer.filter(({ id }) => id < oldest);
    if (older.length < PART) this.#first = older[0]?.id ?? oldest;
    this.#orders.extend(older);
    return older.length > 0;
  }
}
