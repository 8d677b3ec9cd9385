// What part of the rail is seen: the newest, or, for who scrolls back, older ones.

import { holdStill } from "./rail.js";

/** So many px from the newest still count as there. */
const NEAR = 40;
/** After so many ms without a hand on anything, the newest is seen again. */
const IDLE = 90_000;
/** After so many more it is made sure of: a motion may have been cut short. */
const AGAIN = 3_000;
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
  /** It is on the way to the newest. */
  #isGoing = false;

  /** `frame` scrolls `list`. */
  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    frame.addEventListener("scrollend", () => (this.#isGoing = false));
    const touch = () => (this.#touchedAt = performance.now());
    for (const type of HANDS) addEventListener(type, touch, { capture: true, passive: true });
  }

  /** Looks at what is left of what is seen. */
  back() {
    this.#isGoing = false;
    this.#scrollTo({ left: this.#frame.scrollLeft - this.width * 0.8 });
  }

  /** Looks at the newest again. */
  forth() {
    this.#isGoing = this.isBack;
    this.#scrollTo({ left: 0, top: 0 });
  }

  /**
   * Receipts came at the right: what is looked at stays where it is. Who is on the way
   * to the newest is there: in a row that grows, that motion would end elsewhere.
   */
  hold(count) {
    if (!this.isBack || count === 0) return;
    if (this.#isGoing) return this.#frame.scrollTo({ left: 0, top: 0, behavior: "instant" });
    holdStill(this.#list);
    this.#frame.scrollLeft -= count * this.#pitch;
  }

  /** How many px are left of what is seen. */
  get room() {
    const { scrollWidth, scrollLeft } = this.#frame;
    return scrollWidth - this.width + scrollLeft;
  }

  /** Whether there is nothing: sizes are rounded, and what is scrolled may not be. */
  get isAtEnd() {
    return this.room < 2;
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
    const { scrollLeft, scrollTop } = this.#frame;
    const isBack = scrollLeft <= -NEAR;
    if (!isBack) this.#isGoing = false;
    if (!isBack && scrollTop <= NEAR) {
      clearTimeout(this.#idle);
      this.#idle = null;
    } else if (this.#idle === null) {
      this.#touchedAt = performance.now();
      this.#rest();
    }
    if (isBack !== this.isBack) {
      this.isBack = isBack;
      this.dispatchEvent(new Event("change"));
    }
    this.dispatchEvent(new Event("move"));
  }

  #scrollTo(place) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#frame.scrollTo({ ...place, behavior: still ? "instant" : "smooth" });
  }

  /** A screen on the wall must not stay with what somebody once looked at. */
  #rest() {
    const left = this.#touchedAt + IDLE - performance.now();
    if (left <= 0) this.forth();
    this.#idle = setTimeout(() => this.#rest(), left > 0 ? left : AGAIN);
  }
}
