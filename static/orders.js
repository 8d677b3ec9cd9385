// The orders on the rail: each one once, by id, the latest few.

import { isLater } from "./workflow.js";

/** How many changes are remembered, for orders that come with an older status. */
const REMEMBERED = 200;

/** Ids rise by one, so that a missing one shows. Nothing here knows of a page. */
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
