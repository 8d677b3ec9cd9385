// The row of receipts. page.css gives each its place, counted from the newest at
// the right, and the motion from one place to the next.

import { localise, receipt } from "./receipt.js";

export class Rail {
  #list;
  /** By id: the order and its element. Holds what the list holds. */
  #hung = new Map();
  #wanted = null;

  constructor(list) {
    this.#list = list;
  }

  /** Takes over the receipts that came with the page, and returns what is known of their orders. */
  adopt() {
    for (const element of this.#list.children) {
      const time = element.querySelector("time");
      const order = { id: Number(element.dataset.id), timestamp: time.dateTime };
      localise(time);
      this.#hung.set(order.id, { order, element });
    }
    return [...this.#hung.values()].map(({ order }) => order);
  }

  /** Shows these orders, oldest first, with the next frame: a burst of changes is one. */
  show(orders) {
    if (this.#wanted === null) requestAnimationFrame(() => this.#render());
    this.#wanted = orders;
  }

  /** Makes the list what it should be, touching only what differs. */
  #render() {
    const orders = this.#wanted;
    this.#wanted = null;
    const ids = new Set(orders.map(({ id }) => id));
    for (const [id, { element }] of this.#hung) {
      if (ids.has(id)) continue;
      element.remove();
      this.#hung.delete(id);
    }
    let next = this.#list.firstElementChild;
    for (const order of orders) {
      const hung = this.#hung.get(order.id);
      if (hung?.order === order) {
        next = hung.element.nextElementSibling;
        continue;
      }
      const element = receipt(order);
      this.#hung.set(order.id, { order, element });
      if (hung) {
        hung.element.replaceWith(element);
        next = element.nextElementSibling;
      } else {
        element.classList.add("new");
        this.#list.insertBefore(element, next);
      }
    }
  }
}
