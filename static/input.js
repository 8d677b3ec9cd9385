// Clicks and keys on the tickets. Tab reaches one ticket, arrow keys the others.

const ACTION_KEYS = ["Enter", "Backspace", "Delete"];
// Input soon after a move may be meant for another ticket.
const FOCUS_MOVED_MS = 700;
const TICKETS_MOVED_MS = 400;

/** Events: `advance` and `cancel` (a ticket's id), `older` (than all tickets). */
export class TicketInput extends EventTarget {
  #rail;
  #view;
  #current = null;
  #ignoreKeysUntil = 0;
  #ignoreClicksUntil = 0;

  constructor(list, rail, view) {
    super();
    this.#rail = rail;
    this.#view = view;
    rail.addEventListener("focusmoved", () => (this.#ignoreKeysUntil = performance.now() + FOCUS_MOVED_MS));
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("focusin", ({ target }) => this.#makeTabbable(target.closest(".paper")));
    document.addEventListener("keydown", (event) => this.#keydown(event));
    this.refresh();
  }

  /** After a rendering: a hidden button passes the focus to its ticket. */
  refresh(hasMoved) {
    if (hasMoved) this.#ignoreClicksUntil = performance.now() + TICKETS_MOVED_MS;
    const { papers } = this.#rail;
    const { activeElement } = document;
    if (activeElement.closest(".actions") && !activeElement.checkVisibility({ visibilityProperty: true })) {
      activeElement.closest(".paper").focus({ preventScroll: true });
    }
    const hasFocus = papers.includes(this.#current) && this.#current.contains(document.activeElement);
    this.#makeTabbable(hasFocus ? this.#current : papers.at(-1));
  }

  #makeTabbable(paper = null) {
    if (paper === this.#current) return;
    setTabindex(this.#current, -1);
    setTabindex(paper, 0);
    this.#current = paper;
  }

  #click({ target, detail }) {
    const paper = target.closest(".paper");
    // Status changes are final, so the second half of a double click is ignored.
    // `detail` is 0 for other than pointers.
    if (!paper || detail > 1 || (detail === 1 && performance.now() < this.#ignoreClicksUntil)) return;
    if (target.closest(".advance")) this.#emit("advance", paper);
    else if (target.closest(".cancel")) this.#emit("cancel", paper);
  }

  #emit(action, paper) {
    const detail = Number(paper.parentElement.dataset.id);
    this.dispatchEvent(new CustomEvent(action, { detail }));
  }

  #keydown(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || target.closest("dialog")) return;
    const isPaper = target.classList.contains("paper");
    const paper = target.closest(".paper");
    if (paper && ACTION_KEYS.includes(key) && (event.repeat || performance.now() < this.#ignoreKeysUntil)) {
      // Ignored: the key is held, or was meant for another ticket.
    } else if (key === "ArrowLeft" || key === "ArrowRight") this.#moveFocus(key === "ArrowLeft" ? -1 : 1);
    else if (key === "Home" || key === "End") this.#focus(this.#rail.papers.at(key === "Home" ? 0 : -1));
    else if (key === "Enter" && isPaper) this.#emit("advance", target);
    else if ((key === "Backspace" || key === "Delete") && paper) this.#emit("cancel", paper);
    else return;
    event.preventDefault();
  }

  #moveFocus(step) {
    const { papers } = this.#rail;
    const index = papers.findIndex((paper) => paper.contains(document.activeElement));
    if (index < 0) return this.#focus(this.#current);
    if (index + step < 0) this.dispatchEvent(new Event("older"));
    this.#focus(papers[index + step]);
  }

  #focus(paper) {
    if (!paper) return;
    paper.focus({ preventScroll: true });
    this.#view.reveal(paper);
  }
}

export function setUpHelp(button, dialog) {
  const open = () => {
    if (!dialog.open) dialog.showModal();
  };
  button.addEventListener("click", open);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  // Only the backdrop has the dialog as its target.
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
