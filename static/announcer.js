// Says new orders to screen readers: briefly, and not more often than can be heard.

/** How long, in ms, orders are gathered into one sentence. */
const GATHER = 400;
/** How long, in ms, it is quiet between two sentences about orders. */
const PAUSE = 8_000;

export class Announcer {
  #region;
  #count = 0;
  #last = null;
  #quietUntil = 0;

  /** `region` is an element with `aria-live`. */
  constructor(region) {
    this.#region = region;
  }

  /** Tells of these orders, oldest first. */
  announce(orders) {
    if (orders.length === 0) return;
    if (this.#count === 0) {
      const wait = Math.max(GATHER, this.#quietUntil - Date.now());
      setTimeout(() => this.#speak(), wait);
    }
    this.#count += orders.length;
    this.#last = orders.at(-1);
  }

  /** Says this now: the answer to something that the reader did. */
  say(text) {
    this.#region.textContent = text;
  }

  #speak() {
    const { id, destination } = this.#last;
    const order = `Order ${id}, ${destination}`;
    this.say(this.#count === 1 ? order : `${this.#count} new orders. The last: ${order}`);
    this.#count = 0;
    this.#quietUntil = Date.now() + PAUSE;
  }
}
