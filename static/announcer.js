// Says new orders to screen readers: briefly, and not more often than can be heard.

/** How long, in ms, orders are gathered into one sentence. */
const GATHER = 400;

export class Announcer {
  #region;
  #count = 0;
  #last = null;

  /** `region` is an element with `aria-live`. */
  constructor(region) {
    this.#region = region;
  }

  /** Tells of these orders, oldest first. */
  announce(orders) {
    if (orders.length === 0) return;
    if (this.#count === 0) setTimeout(() => this.#speak(), GATHER);
    this.#count += orders.length;
    this.#last = orders.at(-1);
  }

  #speak() {
    const { id, destination } = this.#last;
    const order = `Order ${id}, ${destination}`;
    this.#region.textContent = this.#count === 1 ? order : `${this.#count} new orders. ${order}`;
    this.#count = 0;
  }
}
