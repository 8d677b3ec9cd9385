// How long to wait before trying again: exponential, with full jitter.

/**
 * Each delay is drawn uniformly from nothing up to a ceiling that doubles from
 * `first` to `most` (milliseconds), so that a thousand pages that lost the same
 * host do not come back in the same instant.
 */
export class Backoff {
  #first;
  #most;
  #random;
  #tries = 0;

  constructor({ first = 500, most = 30_000, random = Math.random } = {}) {
    this.#first = first;
    this.#most = most;
    this.#random = random;
  }

  /** The next delay in milliseconds. */
  next() {
    const ceiling = Math.min(this.#most, this.#first * 2 ** this.#tries);
    // Counting on past the highest ceiling would only end in infinity.
    if (ceiling < this.#most) this.#tries += 1;
    return this.#random() * ceiling;
  }

  /** It worked: begin at the first delay again. */
  reset() {
    this.#tries = 0;
  }
}
