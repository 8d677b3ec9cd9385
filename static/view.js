// What part of the rail is seen: the newest, or, for who scrolls back, older ones.

/** So many px from the newest still count as there. */
const NEAR = 40;

/**
 * The rail is scrolled from the right: 0 is the newest, less is older.
 *
 * Events:
 * - `change`: `isBack`, whether older ones are looked at, changed;
 * - `older`: the oldest that is there is in view, and was asked to make room.
 */
export class View extends EventTarget {
  isBack = false;

  #frame;
  #list;

  /** `frame` scrolls `list`. */
  constructor(frame, list) {
    super();
    this.#frame = frame;
    this.#list = list;
    frame.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** Looks at what is left of what is seen. */
  back() {
    this.#setBack(true);
    const { clientWidth, scrollLeft } = this.#frame;
    if (this.#room < clientWidth) this.dispatchEvent(new Event("older"));
    this.#scrollTo(scrollLeft - clientWidth * 0.8);
  }

  /** Looks at the newest again. */
  forth() {
    this.#scrollTo(0);
    if (this.#frame.scrollLeft > -NEAR) this.#setBack(false);
  }

  /** Receipts came at the right: what is looked at stays where it is. */
  hold(count) {
    if (!this.isBack || count === 0) return;
    const { lastElementChild: last, children } = this.#list;
    const before = children[children.length - 2];
    if (!before) return;
    this.#list.classList.add("still");
    const width = last.offsetWidth + parseFloat(getComputedStyle(this.#list).paddingRight);
    this.#frame.scrollLeft -= count * width;
    requestAnimationFrame(() => this.#list.classList.remove("still"));
  }

  /** How many px are left of what is seen. */
  get #room() {
    const { scrollWidth, clientWidth, scrollLeft } = this.#frame;
    return scrollWidth - clientWidth + scrollLeft;
  }

  #scrolled() {
    const { scrollLeft } = this.#frame;
    if (scrollLeft > -NEAR) this.#setBack(false);
    else {
      this.#setBack(true);
      if (this.#room < NEAR) this.dispatchEvent(new Event("older"));
    }
  }

  #scrollTo(left) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#frame.scrollTo({ left, behavior: still ? "instant" : "smooth" });
  }

  #setBack(isBack) {
    if (isBack === this.isBack) return;
    this.isBack = isBack;
    this.dispatchEvent(new Event("change"));
  }
}
