// Hands on the tickets: by click, touch and keyboard, and the list of its keys. One
// ticket at a time can be reached with Tab, and its buttons; arrows go from one to
// the next.

/** The keys that take steps. */
const STEPS = ["Enter", "Backspace", "Delete"];
/** How long, in ms, a hand is not heard that was on another ticket a moment ago. */
const HANDOVER = 700;
/** How long, in ms, after tickets moved a pointer may be on another one than it was meant for. */
const MOTION = 400;

/**
 * Events:
 * - `onwards` and `cancel`: `detail` is the id of the ticket;
 * - `past`: there was no older ticket to go to.
 */
export class Hands extends EventTarget {
  #rail;
  #view;
  #current = null;
  #deafUntil = 0;
  #movedUntil = 0;

  /** `list` is the element of `rail`; `view` shows the ticket that arrows go to. */
  constructor(list, rail, view) {
    super();
    this.#rail = rail;
    this.#view = view;
    rail.addEventListener("handover", () => (this.#deafUntil = performance.now() + HANDOVER));
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("focusin", ({ target }) => this.#reach(target.closest(".paper")));
    document.addEventListener("keydown", (event) => this.#key(event));
    this.refresh();
  }

  /**
   * The rail has changed, and with `moved` its tickets are elsewhere. A button that
   * went away hands the focus to its ticket. Unless a hand is on one, it is the newest
   * ticket that can be reached.
   */
  refresh(moved) {
    if (moved) this.#movedUntil = performance.now() + MOTION;
    const { papers } = this.#rail;
    const { activeElement } = document;
    if (activeElement.closest(".actions") && !activeElement.checkVisibility({ visibilityProperty: true })) {
      activeElement.closest(".paper").focus({ preventScroll: true });
    }
    const isHeld = papers.includes(this.#current) && this.#current.contains(document.activeElement);
    this.#reach(isHeld ? this.#current : papers.at(-1));
  }

  #reach(paper = null) {
    if (paper === this.#current) return;
    setTabindex(this.#current, -1);
    setTabindex(paper, 0);
    this.#current = paper;
  }

  #click({ target, detail }) {
    const paper = target.closest(".paper");
    // There is no way back from a step: the second half of a double click takes none,
    // nor does a pointer under which a ticket has just come. Other clicks count nothing.
    if (!paper || detail > 1 || (detail === 1 && performance.now() < this.#movedUntil)) return;
    if (target.closest(".onwards")) this.#do("onwards", paper);
    else if (target.closest(".cancel")) this.#do("cancel", paper);
  }

  #do(action, paper) {
    const detail = Number(paper.parentElement.dataset.id);
    this.dispatchEvent(new CustomEvent(action, { detail }));
  }

  #key(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || target.closest("dialog")) return;
    const isPaper = target.classList.contains("paper");
    const onTicket = target.closest(".paper");
    if (onTicket && STEPS.includes(key) && (event.repeat || performance.now() < this.#deafUntil)) {
      // A key that is held takes one step, and one that was meant for another ticket none.
    } else if (key === "ArrowLeft" || key === "ArrowRight") this.#go(key === "ArrowLeft" ? -1 : 1);
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
    this.#view.reveal(paper);
  }
}

/** Opens `dialog` by `button` and by the key `?`. */
export function helpBy(button, dialog) {
  const open = () => {
    if (!dialog.open) dialog.showModal();
  };
  button.addEventListener("click", open);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  // A click beside it is one on the dialog itself, which what is in it fills.
  dialog.addEventListener("click", ({ target }) => {
    if (target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "?" || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    open();
  });
}

function setTabindex(paper, tabindex) {
  if (!paper) return;
  for (const element of [paper, ...paper.querySelectorAll("button")]) element.tabIndex = tabindex;
}
