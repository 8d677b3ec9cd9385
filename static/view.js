// What part of the rail is seen: the newest, or, for who scrolls back, older ones.

import { holdStill } from "./rail.js";

/** So many px from the newest still count as there. */
const NEAR = 40;
/** After so many ms without a hand on anything, the newest is seen again. */
const IDLE = 90_000;
/** What hands do. */
const HANDS = ["pointerdown", "pointermove", "wheel", "touchmove", "keydown"];

/**
 * The rail is scrolled from the right: 0 is the newest, less is older.
 *
 * Events:
 * - `change`: `isBack`, whether older ones are looked at, changed;
 * - `move`: another part is seen.
 */
export class View extends EventTarget {
  isBack = false;

  #frame;
  #list;
  #touchedAt = 0;
  #idle = null;

  /** `frame` scrolls `list`. */
  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const touch = () => (this.#touchedAt = Date.now());
    for (const type of HANDS) addEventListener(type, touch, { capture: true, passive: true });
  }

  /** Looks at what is left of what is seen. */
  back() {
    const { scrollLeft } = this.#frame;
    this.#scrollTo(scrollLeft - this.width * 0.8);
  }

  /** Looks at the newest again. */
  forth() {
    this.#scrollTo(0);
  }

  /** Receipts came at the right: what is looked at stays where it is. */
  hold(count) {
    if (!this.isBack || count === 0) return;
    holdStill(this.#list);
    this.#frame.scrollLeft -= count * this.#pitch;
  }

  /** How many px are left of what is seen. */
  get room() {
    const { scrollWidth, scrollLeft } = this.#frame;
    return scrollWidth - this.width + scrollLeft;
  }

  /** How many px wide it is. */
  get width() {
    return this.#frame.clientWidth;
  }

  /** The places that are seen, counted from the newest: the first and the last. */
  get seen() {
    const pitch = this.#pitch;
    const { scrollLeft } = this.#frame;
    return [-scrollLeft / pitch, (this.width - scrollLeft) / pitch].map(Math.floor);
  }

  /** How many px are from one receipt to the next; 1 when there is none. */
  get #pitch() {
    const { lastElementChild: last } = this.#list;
    return last ? last.offsetWidth + parseFloat(getComputedStyle(this.#list).columnGap) : 1;
  }

  #scrolled() {
    this.#setBack(this.#frame.scrollLeft <= -NEAR);
    this.dispatchEvent(new Event("move"));
  }

  #scrollTo(left) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#frame.scrollTo({ left, behavior: still ? "instant" : "smooth" });
  }

  #setBack(isBack) {
    if (isBack === this.isBack) return;
    this.isBack = isBack;
    clearTimeout(this.#idle);
    this.#touchedAt = Date.now();
    if (isBack) this.#rest();
    this.dispatchEvent(new Event("change"));
  }

  /** A screen on the wall must not stay with what somebody once looked at. */
  #rest() {
    const left = this.#touchedAt + IDLE - Date.now();
    if (left > 0) this.#idle = setTimeout(() => this.#rest(), left);
    else this.forth();
  }
}
