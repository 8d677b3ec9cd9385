// The row of receipts: newest at the right, where new ones slide in.

import { localise, receipt } from "./receipt.js";

const SLIDE = { duration: 600, easing: "cubic-bezier(0.22, 0.9, 0.3, 1)" };
const SWING = { duration: 900, easing: "ease-out" };

export class Rail {
  #list;
  /** By id: the order and its element. Holds what the list holds. */
  #hung = new Map();
  #wanted = null;
  #slide = null;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

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

  #render() {
    const orders = this.#wanted;
    this.#wanted = null;
    const anchor = this.#list.lastElementChild;
    const before = anchor?.getBoundingClientRect().left;
    const added = this.#arrange(orders);
    if (added.length === 0 || this.#still.matches) return;
    this.#move(anchor, before);
    for (const element of added) swing(element.firstElementChild);
  }

  /** Makes the list what it should be, touching only what differs; returns what is new. */
  #arrange(orders) {
    const added = [];
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
        this.#list.insertBefore(element, next);
        added.push(element);
      }
    }
    return added;
  }

  /**
   * Layout has put everything in its new place. The row as a whole starts from
   * where it was seen last, even if that was in the middle of a slide.
   */
  #move(anchor, before) {
    this.#slide?.cancel();
    const distance = anchor?.isConnected
      ? before - anchor.getBoundingClientRect().left
      : this.#list.lastElementChild.offsetWidth;
    if (distance === 0) return;
    const transform = [`translateX(${distance}px)`, "none"];
    this.#slide = this.#list.animate({ transform }, SLIDE);
  }
}

/** Paper just hung up has not come to rest. */
function swing(paper) {
  paper.animate({ rotate: ["2deg", "-1.2deg", "0.6deg", "0deg"] }, SWING);
}
