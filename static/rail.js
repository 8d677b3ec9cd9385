// The row of receipts. page.css gives each of the last twelve its place, counted
// from the newest at the right, and the motion from one place to the next.

import { clock } from "./clock.js";
import { localise, receipt, showAge, showStatus } from "./receipt.js";

/** How many places page.css knows. */
const PLACES = 12;
/** How long, in ms, the rail rests after it changed: many changes are made together. */
const REST = 120;
/** How many receipts are beside each other, and how many px are between two rows. */
const ONE_ROW = { columns: Infinity, gap: 0 };

/**
 * The latest twelve always hang here. Of more, those that are seen do, and as many
 * on either side: the document stays small however far back one looks.
 *
 * Events:
 * - `show`: other receipts hang here; `detail` is how many are new at the right;
 * - `handover`: the receipt that had the focus is gone, and another one has it:
 *   `detail` is `{ from, to }`, their ids.
 */
export class Rail extends EventTarget {
  #list;
  #seen;
  /** By id: the order, its element, and its place. Holds what the list holds. */
  #hung = new Map();
  #orders = [];
  #newest = -1;
  #wasShown = false;
  #isDue = false;
  #restsUntil = 0;

  /** `seen` returns the first and the last place that are seen. */
  constructor(list, seen) {
    super();
    this.#list = list;
    this.#seen = seen;
  }

  /** Takes over the receipts that came with the page, and returns what is known of their orders. */
  adopt() {
    for (const element of this.#list.children) {
      const time = element.querySelector("time");
      const { id, status } = element.dataset;
      const order = { id: Number(id), timestamp: time.dateTime, status };
      localise(time);
      this.#hung.set(order.id, { order, element });
      this.#newest = order.id;
    }
    this.age();
    return [...this.#hung.values()].map(({ order }) => order);
  }

  /** The lowest id that hangs here; null when there is none. */
  get oldest() {
    const { firstElementChild: first } = this.#list;
    return first && Number(first.dataset.id);
  }

  /** The papers that hang here, oldest first. */
  get papers() {
    return [...this.#list.children].map((element) => element.firstElementChild);
  }

  /** Shows these orders, oldest first, with the next frame; in a burst, a little later. */
  show(orders) {
    this.#orders = orders;
    this.#schedule(this.#restsUntil - performance.now());
  }

  /** Others are seen: makes sure that they are there. */
  look() {
    if (this.#orders.length > PLACES) this.#schedule(0);
  }

  /** Shows how long each has waited. */
  age() {
    const now = clock.now();
    for (const { order, element } of this.#hung.values()) showAge(element, order, now);
  }

  #schedule(rest) {
    if (this.#isDue) return;
    this.#isDue = true;
    const render = () => requestAnimationFrame(() => this.#render());
    if (rest > 0) setTimeout(render, rest);
    else render();
  }

  /** Makes the list what it should be, touching only what differs. */
  #render() {
    const orders = this.#orders;
    const wanted = this.#choose(orders);
    const before = this.#newest;
    this.#isDue = false;
    this.#restsUntil = performance.now() + REST;
    const held = this.#remove(wanted);
    let next = this.#list.firstElementChild;
    for (const [order, place] of wanted) {
      let hung = this.#hung.get(order.id);
      if (hung) {
        if (hung.order.status !== order.status) {
          showStatus(hung.element, order.status);
          hung.element.classList.add("moved");
        }
        hung.order = order;
        next = hung.element.nextElementSibling;
      } else {
        hung = { order, element: receipt(order) };
        hung.element.classList.toggle("new", order.id > before);
        this.#hung.set(order.id, hung);
        this.#list.insertBefore(hung.element, next);
      }
      hung.place = place;
    }
    if (held) this.#handOver(held);
    this.#newest = orders.at(-1)?.id ?? -1;
    this.#place(orders.length);
    // What came with the page is where it belongs, and does not go there.
    if (!this.#wasShown) holdStill(this.#list);
    this.#wasShown = true;
    this.age();
    const detail = orders.filter(({ id }) => id > before).length;
    this.dispatchEvent(new CustomEvent("show", { detail }));
  }

  /** Those of these orders that are to hang here, each with its place. */
  #choose(orders) {
    const places = orders.map((order, index) => [order, orders.length - 1 - index]);
    if (orders.length <= PLACES) return places;
    const [first, last] = this.#seen();
    const margin = last - first + 1;
    const focused = document.activeElement?.closest("[data-id]")?.dataset.id;
    const held = orders.length - 1 - orders.findIndex(({ id }) => id === Number(focused));
    return places.filter(
      ([, place], index) =>
        place < PLACES ||
        (place >= first - margin && place <= last + margin) ||
        // How far one can scroll follows from the oldest; hands go on from what they hold.
        index === 0 ||
        Math.abs(place - held) <= 1,
    );
  }

  /** Takes down what is not wanted, but for the one that has the focus: returns that. */
  #remove(wanted) {
    const timestamps = new Map(wanted.map(([{ id, timestamp }]) => [id, timestamp]));
    let held = null;
    for (const [id, { order, element }] of this.#hung) {
      if (timestamps.get(id) === order.timestamp) continue;
      this.#hung.delete(id);
      if (element.contains(document.activeElement)) held = element;
      else element.remove();
    }
    return held;
  }

  /** Takes it down when the others hang there, the next of which gets the focus. */
  #handOver(element) {
    const from = Number(element.dataset.id);
    const ids = [...this.#hung.keys()].sort((a, b) => a - b);
    const to = ids.find((id) => id > from) ?? ids.at(-1);
    this.#hung.get(to)?.element.firstElementChild.focus({ preventScroll: true });
    element.remove();
    if (to === undefined) return;
    this.dispatchEvent(new CustomEvent("handover", { detail: { from, to } }));
  }

  /** Gives those a place that page.css gives none, or another one. */
  #place(count) {
    const { columns, gap } = count > PLACES ? ONE_ROW : this.#rows();
    const byPlace = new Map([...this.#hung.values()].map((hung) => [hung.place, hung.element]));
    const drops = [...byPlace].map(([place]) => {
      const above = byPlace.get(place - columns);
      return above ? above.offsetHeight + gap : 0;
    });
    for (const [place, { style }] of byPlace) {
      const drop = drops.shift();
      const column = place < columns ? place : place - columns;
      set(style, "--place", column === place && place < PLACES ? "" : column);
      set(style, "--drop", drop > 0 ? `${drop}px` : "");
    }
  }

  /** A screen that is high enough has a second row, for what the first has no room for. */
  #rows() {
    const { lastElementChild: last } = this.#list;
    const style = getComputedStyle(this.#list);
    if (!last || style.getPropertyValue("--rows").trim() !== "2") return ONE_ROW;
    const [gap, padding] = [style.columnGap, style.paddingRight].map(parseFloat);
    const width = this.#list.clientWidth - 2 * padding + gap;
    const columns = Math.max(Math.floor(width / (last.offsetWidth + gap)), PLACES / 2);
    return { columns, gap };
  }
}

/** Lets nothing in `list` move to its place until the next frame: it is there. */
export function holdStill(list) {
  list.classList.add("still");
  requestAnimationFrame(() => list.classList.remove("still"));
}

function set(style, name, value) {
  if (style.getPropertyValue(name) !== String(value)) style.setProperty(name, value);
}
