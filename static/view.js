// What part of the rail is seen: the newest, or, for who scrolls back, older ones.

import { holdStill } from "./rail.js";

/** So many px from the newest still count as there. */
const NEAR = 40;
/** After so many ms without a hand on anything, the newest is seen again. */
const IDLE = 90_000;
/** In so many ms a motion does two thirds of what is left of its way. */
const PACE = 80;
/** After so many ms it is at its end. */
const MOTION = 1_000;
/** What hands do: all but the last end a motion. */
const HANDS = ["pointerdown", "wheel", "touchmove", "keydown", "pointermove"];

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

  /** `frame` scrolls `list`. */
  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const touch = ({ type }) => {
      this.#touchedAt = performance.now();
      if (type !== "pointermove") this.#goal = null;
    };
    for (const type of HANDS) addEventListener(type, touch, { capture: true, passive: true });
  }

  /** Looks at what is left of what is seen. In a row that moves there may be more than there seems. */
  back() {
    if (!this.isAtEnd) this.#scrollTo({ left: this.#frame.scrollLeft - this.width * 0.8 });
  }

  /** Looks at the newest again. */
  forth() {
    this.#scrollTo({ left: 0, top: 0 });
  }

  /** Looks at a receipt, if it is not seen already. */
  reveal(receipt) {
    const { scrollLeft: left, scrollTop: top } = this.#frame;
    receipt.scrollIntoView({ behavior: "instant", block: "nearest", inline: "nearest" });
    const goal = { left: this.#frame.scrollLeft, top: this.#frame.scrollTop };
    this.#frame.scrollTo({ left, top, behavior: "instant" });
    this.#scrollTo(goal);
  }

  /** The row has changed, and `count` receipts came at its right: what is looked at stays there. */
  hold(count) {
    if (!this.isBack || count === 0 || this.#goal?.left === 0) return;
    const left = -count * this.#pitch;
    holdStill(this.#list);
    this.#frame.scrollBy({ left, behavior: "instant" });
    if (this.#goal) this.#goal.left += left;
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
    this.#goal = goal;
    const now = performance.now();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) this.#move(1);
    else this.#next(goal, now, now + MOTION);
  }

  /**
   * The next frame of a motion, unless another one began. One of the browser's own ends
   * elsewhere when the row grows, and begins anew with each key.
   */
  #next(goal, before, end) {
    requestAnimationFrame((now) => {
      if (this.#goal !== goal) return;
      this.#move(now < end ? 1 - Math.exp((before - now) / PACE) : 1);
      this.#next(goal, now, end);
    });
  }

  /** Does a share of what is left of the way; when there is nothing left, the motion is over. */
  #move(share) {
    const { scrollLeft, scrollTop } = this.#frame;
    const { left, top = scrollTop } = this.#goal;
    const isThere = Math.abs(left - scrollLeft) < 1 && Math.abs(top - scrollTop) < 1;
    this.#frame.scrollTo({
      left: between(scrollLeft, left, share),
      top: between(scrollTop, top, share),
      behavior: "instant",
    });
    if (isThere || share === 1) this.#goal = null;
  }

  /** A screen on the wall must not stay with what somebody once looked at. */
  #rest() {
    const left = this.#touchedAt + IDLE - performance.now();
    if (left <= 0) this.forth();
    this.#idle = setTimeout(() => this.#rest(), left > 0 ? left : IDLE);
  }
}

/** A share of the way, but no less than a pixel, or what is left: browsers round. */
function between(from, to, share) {
  const way = to - from;
  const step = Math.max(Math.abs(way) * share, 1);
  return step < Math.abs(way) ? from + Math.sign(way) * step : to;
}
