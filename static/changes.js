// Steps of orders through the kitchen: which there are, and those that were taken here
// and are not yet known to be true. They show at once, and go back when they are
// refused, or when nothing is heard of them.

/** How long, in ms, a step may take to become true. */
const PATIENCE = 5_000;

/** What each status may become, the usual first. The component decides; this knows what it will say. */
const STEPS = {
  received: ["fired", "cancelled"],
  fired: ["fulfilled", "cancelled"],
  fulfilled: [],
  cancelled: [],
};

/** How far along each status is: on its way an order only ever gets further. */
const RANK = { received: 0, fired: 1, fulfilled: 2, cancelled: 2 };

/** Whether an order can go from one status to another in one step. */
export function canBecome(from, to) {
  return STEPS[from]?.includes(to) ?? false;
}

/** The step onwards from a status; null at the end. */
export function onwards(status) {
  return STEPS[status]?.[0] ?? null;
}

/**
 * Whether news of `status` is later than `known`. News may overtake each other
 * on the way, and what was fetched may be older than what was heard meanwhile.
 */
export function isLater(status, known) {
  return (RANK[status] ?? 0) > (RANK[known] ?? 0);
}

/** Whether nothing more happens to an order. */
export function isDone(status) {
  return onwards(status) === null;
}

/**
 * Events:
 * - `change`: what is to be shown changed;
 * - `refused`: `detail` is `{ id, message }`, why an order went back.
 */
export class Changes extends EventTarget {
  #orders;
  #send;
  #fetch;
  /** By id: the steps, first to last, and the timer of the last one. */
  #steps = new Map();

  /**
   * `orders` holds what is true; `send(id, status)` asks for a step;
   * `fetchOrder(id)` promises the order as it is.
   */
  constructor(orders, send, fetchOrder) {
    super();
    this.#orders = orders;
    this.#send = send;
    this.#fetch = fetchOrder;
  }

  /** The order as it is to be shown. */
  shown(order) {
    const steps = this.#steps.get(order.id)?.statuses;
    return steps ? { ...order, status: steps.at(-1) } : order;
  }

  /** Takes a step, if it is a possible one, and says whether. */
  take(id, status) {
    const order = this.#orders.get(id);
    if (!order || !canBecome(this.shown(order).status, status)) return false;
    const taken = this.#steps.get(id) ?? { statuses: [], timer: null };
    clearTimeout(taken.timer);
    taken.statuses.push(status);
    taken.timer = setTimeout(() => this.#doubt(id), PATIENCE);
    this.#steps.set(id, taken);
    this.#send(id, status);
    this.#tell();
    return true;
  }

  /**
   * What is true changed: steps that have become true are no longer only ours, and
   * those that another screen has made impossible are told of.
   */
  settle() {
    for (const [id, { statuses }] of this.#steps) {
      const order = this.#orders.get(id);
      const left = order ? statuses.filter((status) => isLater(status, order.status)) : [];
      if (left.length > 0) {
        this.#steps.get(id).statuses = left;
        continue;
      }
      this.#forget(id);
      if (order && isDone(order.status) && !statuses.includes(order.status)) {
        this.#refused(id, `order ${id} is ${order.status}`);
      }
    }
  }

  /**
   * The service refused a step. The reason may be that another screen took it, or
   * one that makes it impossible: what is true is asked for first.
   */
  async refuse(id, status, message) {
    await this.#learn(id);
    if (this.#steps.get(id)?.statuses.includes(status)) this.#goBack(id, message);
  }

  /** A step could not be asked for: whatever it led to will be heard of. */
  fail(id, message) {
    if (this.#steps.has(id)) this.#goBack(id, message);
    return this.#learn(id);
  }

  /** Finds out what became of steps that are not heard of. */
  async #doubt(id) {
    const { timer } = this.#steps.get(id);
    await this.#learn(id);
    // Of a step that was taken meanwhile, something may yet be heard.
    if (this.#steps.get(id)?.timer === timer) this.#goBack(id, `order ${id} is as it was: nothing was heard of it`);
  }

  #goBack(id, message) {
    this.#forget(id);
    this.#tell();
    this.#refused(id, message);
  }

  async #learn(id) {
    try {
      this.#orders.update(await this.#fetch(id));
      this.settle();
      this.#tell();
    } catch (error) {
      // When the connection comes back, all that is shown is asked for.
      console.warn(`order ${id} could not be fetched:`, error);
    }
  }

  #forget(id) {
    clearTimeout(this.#steps.get(id)?.timer);
    this.#steps.delete(id);
  }

  #refused(id, message) {
    this.dispatchEvent(new CustomEvent("refused", { detail: { id, message } }));
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}
