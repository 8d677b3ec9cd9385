// Says why something did not happen, for a while.

/** How long, in ms, it can be read. */
const SHOWN = 7_000;

export class Notice {
  #line;
  #timer = null;

  /** `line` is an element with `role="alert"`. */
  constructor(line) {
    this.#line = line;
  }

  show(text) {
    clearTimeout(this.#timer);
    // The service's own words begin in the middle of a sentence.
    this.#line.textContent = text.charAt(0).toUpperCase() + text.slice(1);
    this.#timer = setTimeout(() => (this.#line.textContent = ""), SHOWN);
  }
}
