// The orders on the rail: each one once, by id, the latest few.

/** Ids rise by one, so that a missing one shows. Nothing here knows of a page. */
export class Orders {
  #limit;
  #shown = new Map();
  #complete = null;
  #newest = null;

  constructor(limit) {
    this.#limit = limit;
  }

  /** What to show, oldest first. */
  list() {
    return [...this.#shown.values()].sort((a, b) => a.id - b.id);
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

  /**
   * Takes an order as it came in and says what it is: `new`, `known`, or `odd`,
   * when there should be no such order: it is late, or the kitchen began anew.
   */
  receive(order) {
    const shown = this.#shown.get(order.id);
    if (shown) return shown.timestamp === order.timestamp ? "known" : "odd";
    if (this.#complete !== null && order.id <= this.#complete) return "odd";
    const added = this.#add(order);
    this.#close();
    return added ? "new" : "known";
  }

  /** Takes an order that changed; one that is not shown is not shown now. */
  update(order) {
    if (!this.#shown.has(order.id)) return false;
    this.#shown.set(order.id, order);
    return true;
  }

  /**
   * Takes the answer to "what came after `complete`?" and returns those that
   * are new. An id missing in it is not waited for.
   */
  fill(orders) {
    const added = orders.filter((order) => this.#add(order));
    const last = orders.at(-1)?.id ?? null;
    if (last !== null && (this.#complete === null || last > this.#complete)) this.#complete = last;
    this.#close();
    return added;
  }

  /**
   * Takes the latest orders, asked for when an order was odd and `newest` was
   * what it is given as. If they contradict what is shown, the kitchen began
   * anew, and so does this. Returns those that are new.
   */
  settle(latest, newest) {
    const last = latest.at(-1);
    const other = latest.some(({ id, timestamp }) => {
      const shown = this.#shown.get(id);
      return shown !== undefined && shown.timestamp !== timestamp;
    });
    if (other || (last !== undefined && last.id < newest)) {
      this.#shown.clear();
      this.#complete = this.#newest = null;
    }
    return this.fill(latest);
  }

  /** Says no to an order that is there already, or older than all of a full rail. */
  #add(order) {
    if (this.#shown.has(order.id)) return false;
    if (this.#shown.size === this.#limit) {
      const oldest = Math.min(...this.#shown.keys());
      if (order.id < oldest) return false;
      this.#shown.delete(oldest);
    }
    this.#shown.set(order.id, order);
    if (this.#newest === null || order.id > this.#newest) this.#newest = order.id;
    return true;
  }

  /** What came early joins what is complete. */
  #close() {
    if (this.#complete === null) return;
    while (this.#shown.has(this.#complete + 1)) this.#complete += 1;
  }
}
