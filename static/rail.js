// The row of receipts. page.css gives each of the last twelve its place, counted
// from the newest at the right, and the motion from one place to the next.

import { clock } from "./clock.js";
import { localise, receipt, showAge, showStatus } from "./receipt.js";

/** How many places page.css knows. */
const PLACES = 12;
/** How long, in ms, the rail rests after it changed: many changes are made together. */
const REST = 120;

export class Rail {
  #list;
  /** By id: the order and its element. Holds what the list holds. */
  #hung = new Map();
  #wanted = null;
  #restsUntil = 0;
  #shown = () => {};

  constructor(list) {
    this.#list = list;
  }

  /** Takes over the receipts that came with the page, and returns what is known of their orders. */
  adopt() {
    for (const element of this.#list.children) {
      const time = element.querySelector("time");
      const { id, status } = element.dataset;
      const order = { id: Number(id), timestamp: time.dateTime, status };
      localise(time);
      this.#hung.set(order.id, { order, element });
    }
    this.age();
    return [...this.#hung.values()].map(({ order }) => order);
  }

  /** The papers, oldest first. */
  get papers() {
    return [...this.#list.children].map((element) => element.firstElementChild);
  }

  /** Calls `then` whenever other receipts hang here, with how many are new at the right. */
  onshow(then) {
    this.#shown = then;
  }

  /** Shows these orders, oldest first, with the next frame; in a burst, a little later. */
  show(orders) {
    if (this.#wanted === null) {
      const rest = this.#restsUntil - performance.now();
      const render = () => requestAnimationFrame(() => this.#render());
      if (rest > 0) setTimeout(render, rest);
      else render();
    }
    this.#wanted = orders;
  }

  /** Shows how long each has waited. */
  age(now = clock.now()) {
    for (const { order, element } of this.#hung.values()) showAge(element, order, now);
  }

  /** Makes the list what it should be, touching only what differs. */
  #render() {
    const orders = this.#wanted;
    this.#wanted = null;
    this.#restsUntil = performance.now() + REST;
    const newestBefore = Math.max(-1, ...this.#hung.keys());
    this.#remove(orders);
    let next = this.#list.firstElementChild;
    for (const order of orders) {
      const hung = this.#hung.get(order.id);
      if (hung) {
        if (hung.order.status !== order.status) showStatus(hung.element, order.status);
        hung.order = order;
        next = hung.element.nextElementSibling;
      } else {
        const element = receipt(order);
        element.classList.toggle("new", order.id > newestBefore);
        this.#hung.set(order.id, { order, element });
        this.#list.insertBefore(element, next);
      }
    }
    this.#place();
    this.age();
    this.#shown(orders.filter(({ id }) => id > newestBefore).length);
  }

  /** Takes down what is not among these orders. Who had the focus there has it beside it. */
  #remove(orders) {
    const wanted = new Map(orders.map((order) => [order.id, order]));
    const gone = [...this.#hung].filter(
      ([id, { order }]) => wanted.get(id)?.timestamp !== order.timestamp,
    );
    const focused = gone.find(([, { element }]) => element.contains(document.activeElement));
    for (const [id, { element }] of gone) {
      if (id === focused?.[0]) continue;
      element.remove();
      this.#hung.delete(id);
    }
    if (!focused) return;
    const [id, { element }] = focused;
    const beside = element.nextElementSibling ?? element.previousElementSibling;
    beside?.firstElementChild.focus({ preventScroll: true });
    element.remove();
    this.#hung.delete(id);
  }

  /** Gives those a place that page.css gives none. */
  #place() {
    const elements = this.#list.children;
    for (let index = 0; index < elements.length; index += 1) {
      const place = elements.length - 1 - index;
      const { style } = elements[index];
      if (place >= PLACES) style.setProperty("--place", place);
      else if (style.length > 0) style.removeProperty("--place");
    }
  }
}
