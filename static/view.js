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
  /** Where a motion ends; null when there is none. */
  #goal = null;
  #length = 0;

  /** `frame` scrolls `list`. */
  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    frame.addEventListener("scrollend", () => (this.#goal = null));
    const touch = () => (this.#touchedAt = performance.now());
    for (const type of HANDS) addEventListener(type, touch, { capture: true, passive: true });
  }

  /** Looks at what is left of what is seen. */
  back() {
    this.#scrollTo({ left: this.#frame.scrollLeft - Math.min(this.width * 0.8, this.room) });
  }

  /** Looks at the newest again. */
  forth() {
    this.#scrollTo({ left: 0, top: 0 });
  }

  /**
   * The row has changed, and `count` receipts came at its right: what is looked at
   * stays where it is. In a row that grows a motion would end elsewhere: it ends now.
   */
  hold(count) {
    const { scrollWidth } = this.#frame;
    const isSame = scrollWidth === this.#length;
    this.#length = scrollWidth;
    if (isSame && count === 0) return;
    const goal = this.#goal ?? { left: this.#frame.scrollLeft };
    if (this.isBack && count > 0 && goal.left < 0) {
      holdStill(this.#list);
      goal.left -= count * this.#pitch;
    } else if (!this.#goal) return;
    this.#frame.scrollTo({ ...goal, behavior: "instant" });
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
    if (this.#goal && Math.abs(scrollLeft - this.#goal.left) < 1) this.#goal = null;
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

  #scrollTo(goal) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#goal = goal;
    this.#frame.scrollTo({ ...goal, behavior: still ? "instant" : "smooth" });
  }

  /** A screen on the wall must not stay with what somebody once looked at. */
  #rest() {
    const left = this.#touchedAt + IDLE - performance.now();
    if (left <= 0) this.forth();
    this.#idle = setTimeout(() => this.#rest(), left > 0 ? left : AGAIN);
  }
}
