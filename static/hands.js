// Hands on the tickets: by click, touch and keyboard. One ticket at a time can be
// reached with Tab, and its buttons; arrows go from one to the next.

/**
 * Events:
 * - `onwards` and `cancel`: `detail` is the id of the ticket;
 * - `past`: there was no older ticket to go to.
 */
export class Hands extends EventTarget {
  #rail;
  #current = null;

  /** `list` is the element of `rail`. */
  constructor(list, rail) {
    super();
    this.#rail = rail;
    list.addEventListener("click", ({ target }) => this.#click(target));
    list.addEventListener("focusin", ({ target }) => this.#reach(target.closest(".paper")));
    document.addEventListener("keydown", (event) => this.#key(event));
    this.refresh();
  }

  /** Other tickets hang there now: unless a hand is on one, it is the newest that can be reached. */
  refresh() {
    const { papers } = this.#rail;
    const isHeld = papers.includes(this.#current) && this.#current.contains(document.activeElement);
    this.#reach(isHeld ? this.#current : papers.at(-1));
  }

  #reach(paper = null) {
    if (paper === this.#current) return;
    setTabindex(this.#current, -1);
    setTabindex(paper, 0);
    this.#current = paper;
  }

  #click(target) {
    const paper = target.closest(".paper");
    if (!paper) return;
    if (target.closest(".onwards")) this.#do("onwards", paper);
    else if (target.closest(".cancel")) this.#do("cancel", paper);
  }

  #do(action, paper) {
    const button = document.activeElement;
    const detail = Number(paper.parentElement.dataset.id);
    this.dispatchEvent(new CustomEvent(action, { detail }));
    // A button that goes away would take the focus with it.
    if (button?.closest(".actions")) {
      requestAnimationFrame(() => {
        if (document.activeElement === document.body || !button.checkVisibility({ visibilityProperty: true })) {
          paper.focus({ preventScroll: true });
        }
      });
    }
  }

  #key(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || target.closest("dialog")) return;
    const isPaper = target.classList.contains("paper");
    const onTicket = target.closest(".paper");
    if (key === "ArrowLeft" || key === "ArrowRight") this.#go(key === "ArrowLeft" ? -1 : 1);
    else if (key === "Home" || key === "End") this.#focus(this.#rail.papers.at(key === "Home" ? 0 : -1));
    else if (key === "Enter" && isPaper) this.#do("onwards", target);
    else if ((key === "Backspace" || key === "Delete") && onTicket) this.#do("cancel", onTicket);
    else return;
    event.preventDefault();
  }

  /** Goes from the ticket that has the focus to one beside it; from none, to the one within reach. */
  #go(step) {
    const { papers } = this.#rail;
    const at = papers.findIndex((paper) => paper.contains(document.activeElement));
    if (at < 0) return this.#focus(this.#current);
    if (at + step < 0) this.dispatchEvent(new Event("past"));
    this.#focus(papers[at + step]);
  }

  #focus(paper) {
    if (!paper) return;
    paper.focus({ preventScroll: true });
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    paper.scrollIntoView({ behavior: still ? "instant" : "smooth", block: "nearest", inline: "nearest" });
  }
}

function setTabindex(paper, tabindex) {
  if (!paper) return;
  for (const element of [paper, ...paper.querySelectorAll("button")]) element.tabIndex = tabindex;
}
