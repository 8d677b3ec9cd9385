// The row of receipts. page.css positions the newest twelve, and animates their moves.

import { clock } from "./clock.js";
import { createReceipt, localizeTime, showAge, showStatus } from "./receipt.js";

const CSS_PLACES = 12;
const BATCH_MS = 120;
const ONE_ROW = { columns: Infinity, gap: 0 };

/**
 * Renders only those older orders that are near the visible range.
 * Events: `render` (the number of new orders), `focusmoved` (a focused receipt was removed).
 */
export class Rail extends EventTarget {
  #list;
  #getVisibleRange;
  #receipts = new Map();
  #orders = [];
  #newest = -1;
  #hasRendered = false;
  #isScheduled = false;
  #batchUntil = 0;

  constructor(list, getVisibleRange) {
    super();
    this.#list = list;
    this.#getVisibleRange = getVisibleRange;
  }

  hydrate() {
    for (const element of this.#list.children) {
      const time = element.querySelector("time");
      const { id, status } = element.dataset;
      const order = { id: Number(id), timestamp: time.dateTime, status };
      localizeTime(time);
      this.#receipts.set(order.id, { order, element });
      this.#newest = order.id;
    }
    this.updateAges();
    return [...this.#receipts.values()].map(({ order }) => order);
  }

  get oldest() {
    const { firstElementChild: first } = this.#list;
    return first && Number(first.dataset.id);
  }

  get papers() {
    return [...this.#list.children].map((element) => element.firstElementChild);
  }

  show(orders) {
    this.#orders = orders;
    this.#schedule(this.#batchUntil - performance.now());
  }

  updateWindow() {
    if (this.#orders.length > CSS_PLACES) this.#schedule(0);
  }

  updateAges() {
    const now = clock.now();
    for (const { order, element } of this.#receipts.values()) showAge(element, order, now);
  }

  #schedule(delay) {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const render = () => requestAnimationFrame(() => this.#render());
    if (delay > 0) setTimeout(render, delay);
    else render();
  }

  #render() {
    const orders = this.#orders;
    const wanted = this.#select(orders);
    const newestBefore = this.#newest;
    this.#isScheduled = false;
    this.#batchUntil = performance.now() + BATCH_MS;
    const focused = this.#remove(wanted);
    let next = this.#list.firstElementChild;
    for (const [order, place] of wanted) {
      let receipt = this.#receipts.get(order.id);
      if (receipt) {
        if (receipt.order.status !== order.status) {
          showStatus(receipt.element, order.status);
          receipt.element.classList.add("changed");
        }
        receipt.order = order;
        next = receipt.element.nextElementSibling;
      } else {
        receipt = { order, element: createReceipt(order) };
        receipt.element.classList.toggle("new", order.id > newestBefore);
        this.#receipts.set(order.id, receipt);
        this.#list.insertBefore(receipt.element, next);
      }
      receipt.place = place;
    }
    if (focused) this.#moveFocus(focused);
    this.#newest = orders.at(-1)?.id ?? -1;
    this.#applyPlaces(orders.length);
    if (!this.#hasRendered) skipTransitions(this.#list);
    this.#hasRendered = true;
    this.updateAges();
    const detail = orders.filter(({ id }) => id > newestBefore).length;
    this.dispatchEvent(new CustomEvent("render", { detail }));
  }

  #select(orders) {
    const places = orders.map((order, index) => [order, orders.length - 1 - index]);
    if (orders.length <= CSS_PLACES) return places;
    const [first, last] = this.#getVisibleRange();
    const margin = last - first + 1;
    const focused = document.activeElement?.closest("[data-id]")?.dataset.id;
    const focusedPlace = orders.length - 1 - orders.findIndex(({ id }) => id === Number(focused));
    return places.filter(
      ([, place], index) =>
        place < CSS_PLACES ||
        (place >= first - margin && place <= last + margin) ||
        // The oldest defines the scroll width; arrow keys need the focused one's neighbours.
        index === 0 ||
        Math.abs(place - focusedPlace) <= 1,
    );
  }

  /** Returns a receipt that still has the focus, which the caller removes. */
  #remove(wanted) {
    const timestamps = new Map(wanted.map(([{ id, timestamp }]) => [id, timestamp]));
    let focused = null;
    for (const [id, { order, element }] of this.#receipts) {
      if (timestamps.get(id) === order.timestamp) continue;
      this.#receipts.delete(id);
      if (element.contains(document.activeElement)) focused = element;
      else element.remove();
    }
    return focused;
  }

  #moveFocus(element) {
    const from = Number(element.dataset.id);
    const ids = [...this.#receipts.keys()].sort((a, b) => a - b);
    const to = ids.find((id) => id > from) ?? ids.at(-1);
    this.#receipts.get(to)?.element.firstElementChild.focus({ preventScroll: true });
    element.remove();
    if (to === undefined) return;
    this.dispatchEvent(new CustomEvent("focusmoved", { detail: { from, to } }));
  }

  /** Positions the receipts that page.css does not. */
  #applyPlaces(count) {
    const { columns, gap } = count > CSS_PLACES ? ONE_ROW : this.#measureRows();
    const byPlace = new Map([...this.#receipts.values()].map(({ place, element }) => [place, element]));
    const drops = [...byPlace].map(([place]) => {
      const above = byPlace.get(place - columns);
      return above ? above.offsetHeight + gap : 0;
    });
    for (const [place, { style }] of byPlace) {
      const drop = drops.shift();
      const column = place < columns ? place : place - columns;
      setProperty(style, "--place", column === place && place < CSS_PLACES ? "" : column);
      setProperty(style, "--drop", drop > 0 ? `${drop}px` : "");
    }
  }

  #measureRows() {
    const { lastElementChild: last } = this.#list;
    const style = getComputedStyle(this.#list);
    if (!last || style.getPropertyValue("--rows").trim() !== "2") return ONE_ROW;
    const [gap, padding] = [style.columnGap, style.paddingRight].map(parseFloat);
    const width = this.#list.clientWidth - 2 * padding + gap;
    const columns = Math.max(Math.floor(width / (last.offsetWidth + gap)), CSS_PLACES / 2);
    return { columns, gap };
  }
}

export function skipTransitions(list) {
  list.classList.add("no-transition");
  requestAnimationFrame(() => list.classList.remove("no-transition"));
}

function setProperty(style, name, value) {
  if (style.getPropertyValue(name) !== String(value)) style.setProperty(name, value);
}
