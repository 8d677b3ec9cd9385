// Says what happened: new orders to screen readers, briefly, and not more often than
// can be heard; and to everybody why something did not happen.

/** How long, in ms, orders are gathered into one sentence. */
const GATHER = 400;
/** How long, in ms, it is quiet between two sentences about orders. */
const PAUSE = 8_000;
/** How long, in ms, a warning can be read. */
const SHOWN = 12_000;

export class Announcer {
  #region;
  #line;
  #hide = null;
  #count = 0;
  #last = null;
  #quietUntil = 0;

  /** `region` is an element with `aria-live`, `line` a visible one with `role="alert"`. */
  constructor(region, line) {
    this.#region = region;
    this.#line = line;
  }

  /** Tells of these orders, oldest first. */
  announce(orders) {
    if (orders.length === 0) return;
    if (this.#count === 0) {
      const wait = Math.max(GATHER, this.#quietUntil - performance.now());
      setTimeout(() => this.#speak(), wait);
    }
    this.#count += orders.length;
    this.#last = orders.at(-1);
  }

  /** Says this now: the answer to something that the reader did. */
  say(text) {
    this.#region.textContent = text;
  }

  /** Says why something did not happen. */
  warn(text) {
    clearTimeout(this.#hide);
    // The service's own words begin in the middle of a sentence.
    const sentence = text.charAt(0).toUpperCase() + text.slice(1);
    // What stands there already is not told again.
    if (this.#line.textContent !== sentence) this.#line.textContent = sentence;
    this.#hide = setTimeout(() => (this.#line.textContent = ""), SHOWN);
  }

  #speak() {
    const { id, destination } = this.#last;
    const order = `Order ${id}, ${destination}`;
    this.say(this.#count === 1 ? order : `${this.#count} new orders. The last: ${order}`);
    this.#count = 0;
    this.#quietUntil = performance.now() + PAUSE;
  }
}
