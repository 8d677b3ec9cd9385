// Announces orders to screen readers, and shows warnings.

const GATHER_MS = 400;
const MIN_INTERVAL_MS = 8_000;
const WARNING_MS = 12_000;

export class Announcer {
  #region;
  #notice;
  #hideTimer = null;
  #count = 0;
  #last = null;
  #quietUntil = 0;

  constructor(region, notice) {
    this.#region = region;
    this.#notice = notice;
  }

  announce(orders) {
    if (orders.length === 0) return;
    if (this.#count === 0) {
      const delay = Math.max(GATHER_MS, this.#quietUntil - performance.now());
      setTimeout(() => this.#flush(), delay);
    }
    this.#count += orders.length;
    this.#last = orders.at(-1);
  }

  say(text) {
    this.#region.textContent = text;
  }

  warn(text) {
    clearTimeout(this.#hideTimer);
    const sentence = text.charAt(0).toUpperCase() + text.slice(1);
    // Screen readers would repeat the same text.
    if (this.#notice.textContent !== sentence) this.#notice.textContent = sentence;
    this.#hideTimer = setTimeout(() => (this.#notice.textContent = ""), WARNING_MS);
  }

  #flush() {
    const { id, destination } = this.#last;
    const order = `Order ${id}, ${destination}`;
    this.say(this.#count === 1 ? order : `${this.#count} new orders. The last: ${order}`);
    this.#count = 0;
    this.#quietUntil = performance.now() + MIN_INTERVAL_MS;
  }
}
