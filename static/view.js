// The scroll position of the rail.

import { skipTransitions } from "./rail.js";

const NEWEST_PX = 40;
const IDLE_MS = 90_000;
const DECAY_MS = 80;
const MAX_ANIMATION_MS = 1_000;
/** All but the last of these stop a scroll animation. */
const INPUT_EVENTS = ["pointerdown", "wheel", "touchmove", "keydown", "pointermove"];

/**
 * `scrollLeft` is 0 at the newest order, and negative at older ones.
 * Events: `change` (of `isScrolledBack`), `scroll`.
 */
export class View extends EventTarget {
  isScrolledBack = false;

  #frame;
  #list;
  #lastInputAt = 0;
  #idleTimer = null;
  #target = null;

  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const onInput = ({ type }) => {
      this.#lastInputAt = performance.now();
      if (type !== "pointermove") this.#target = null;
    };
    for (const type of INPUT_EVENTS) addEventListener(type, onInput, { capture: true, passive: true });
  }

  /** Does not clamp the target, since the rail may be growing. */
  scrollToOlder() {
    if (!this.isAtEnd) this.#scrollTo({ left: this.#frame.scrollLeft - this.width * 0.8 });
  }

  scrollToNewest() {
    this.#scrollTo({ left: 0, top: 0 });
  }

  reveal(receipt) {
    const { scrollLeft: left, scrollTop: top } = this.#frame;
    receipt.scrollIntoView({ behavior: "instant", block: "nearest", inline: "nearest" });
    const target = { left: this.#frame.scrollLeft, top: this.#frame.scrollTop };
    this.#frame.scrollTo({ left, top, behavior: "instant" });
    this.#scrollTo(target);
  }

  keepPosition(count) {
    if (!this.isScrolledBack || count === 0 || this.#target?.left === 0) return;
    const left = -count * this.#pitch;
    skipTransitions(this.#list);
    this.#frame.scrollBy({ left, behavior: "instant" });
    if (this.#target) this.#target.left += left;
  }

  /** The distance in px to the left end. */
  get remaining() {
    const { scrollWidth, scrollLeft } = this.#frame;
    return scrollWidth - this.width + scrollLeft;
  }

  /** Sizes are rounded, positions may not be. */
  get isAtEnd() {
    return this.remaining < 2;
  }

  get width() {
    return this.#frame.clientWidth;
  }

  /** The first and the last place, counted from the newest. */
  get visibleRange() {
    const pitch = this.#pitch;
    const { scrollLeft } = this.#frame;
    return [-scrollLeft / pitch, (this.width - scrollLeft) / pitch].map(Math.floor);
  }

  get #pitch() {
    const { lastElementChild: last } = this.#list;
    return last ? last.offsetWidth + parseFloat(getComputedStyle(this.#list).columnGap) : 1;
  }

  #onScroll() {
    const { scrollLeft, scrollTop } = this.#frame;
    const isScrolledBack = scrollLeft <= -NEWEST_PX;
    if (!isScrolledBack && scrollTop <= NEWEST_PX) {
      clearTimeout(this.#idleTimer);
      this.#idleTimer = null;
    } else if (this.#idleTimer === null) {
      this.#lastInputAt = performance.now();
      this.#returnWhenIdle();
    }
    if (isScrolledBack !== this.isScrolledBack) {
      this.isScrolledBack = isScrolledBack;
      this.dispatchEvent(new Event("change"));
    }
    this.dispatchEvent(new Event("scroll"));
  }

  #scrollTo(target) {
    this.#target = target;
    const now = performance.now();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) this.#step(1);
    else this.#animate(target, now, now + MAX_ANIMATION_MS);
  }

  /** The browser's smooth scrolling misses its target when the rail grows. */
  #animate(target, previous, end) {
    requestAnimationFrame((now) => {
      if (this.#target !== target) return;
      this.#step(now < end ? 1 - Math.exp((previous - now) / DECAY_MS) : 1);
      this.#animate(target, now, end);
    });
  }

  #step(fraction) {
    const { scrollLeft, scrollTop } = this.#frame;
    const { left, top = scrollTop } = this.#target;
    const hasArrived = Math.abs(left - scrollLeft) < 1 && Math.abs(top - scrollTop) < 1;
    this.#frame.scrollTo({
      left: interpolate(scrollLeft, left, fraction),
      top: interpolate(scrollTop, top, fraction),
      behavior: "instant",
    });
    if (hasArrived || fraction === 1) this.#target = null;
  }

  /** A wall screen has no user to scroll it back. */
  #returnWhenIdle() {
    const remaining = this.#lastInputAt + IDLE_MS - performance.now();
    if (remaining <= 0) this.scrollToNewest();
    this.#idleTimer = setTimeout(() => this.#returnWhenIdle(), remaining > 0 ? remaining : IDLE_MS);
  }
}

/** Moves by at least a pixel, since browsers round positions. */
function interpolate(from, to, fraction) {
  const distance = to - from;
  const step = Math.max(Math.abs(distance) * fraction, 1);
  return step < Math.abs(distance) ? from + Math.sign(distance) * step : to;
}
