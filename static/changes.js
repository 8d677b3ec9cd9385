// The workflow of an order, and the changes that the service has not confirmed.

const CONFIRM_TIMEOUT_MS = 5_000;

/** The usual change first; the same as in components/orders/src/order.rs. */
const TRANSITIONS = {
  received: ["fired", "cancelled"],
  fired: ["fulfilled", "cancelled"],
  fulfilled: [],
  cancelled: [],
};

const RANK = { received: 0, fired: 1, fulfilled: 2, cancelled: 2 };

export function canChange(from, to) {
  return TRANSITIONS[from]?.includes(to) ?? false;
}

export function nextStatus(status) {
  return TRANSITIONS[status]?.[0] ?? null;
}

/** Messages and responses can overtake each other, so an earlier status is outdated. */
export function isLater(status, known) {
  return (RANK[status] ?? 0) > (RANK[known] ?? 0);
}

export function isFinal(status) {
  return nextStatus(status) === null;
}

/** Shows changes at once, and reverts those that fail. Events: `change`, `rejected`. */
export class PendingChanges extends EventTarget {
  #orders;
  #send;
  #fetch;
  #pending = new Map();

  constructor(orders, send, fetchOrder) {
    super();
    this.#orders = orders;
    this.#send = send;
    this.#fetch = fetchOrder;
  }

  apply(order) {
    const statuses = this.#pending.get(order.id)?.statuses;
    return statuses ? { ...order, status: statuses.at(-1) } : order;
  }

  request(id, status) {
    const order = this.#orders.get(id);
    if (!order || !canChange(this.apply(order).status, status)) return false;
    const pending = this.#pending.get(id) ?? { statuses: [], timer: null };
    clearTimeout(pending.timer);
    pending.statuses.push(status);
    pending.timer = setTimeout(() => this.#verify(id), CONFIRM_TIMEOUT_MS);
    this.#pending.set(id, pending);
    this.#send(id, status);
    this.#emitChange();
    return true;
  }

  /** Drops confirmed changes, and rejects those that another client made impossible. */
  reconcile() {
    for (const [id, { statuses }] of this.#pending) {
      const order = this.#orders.get(id);
      const remaining = order ? statuses.filter((status) => isLater(status, order.status)) : [];
      if (remaining.length > 0) {
        this.#pending.get(id).statuses = remaining;
        continue;
      }
      this.#remove(id);
      if (order && isFinal(order.status) && !statuses.includes(order.status)) {
        this.#emitRejected(id, `order ${id} is ${order.status}`);
      }
    }
  }

  /** Fetches the order first: another client may have made the same change. */
  async reject(id, status, message) {
    await this.#refetch(id);
    if (this.#pending.get(id)?.statuses.includes(status)) this.#revert(id, message);
  }

  fail(id, message) {
    if (this.#pending.has(id)) this.#revert(id, message);
    return this.#refetch(id);
  }

  async #verify(id) {
    const { timer } = this.#pending.get(id);
    await this.#refetch(id);
    // A change requested during the fetch has its own timeout.
    if (this.#pending.get(id)?.timer === timer) this.#revert(id, `order ${id} is unchanged: the kitchen did not respond`);
  }

  #revert(id, message) {
    this.#remove(id);
    this.#emitChange();
    this.#emitRejected(id, message);
  }

  async #refetch(id) {
    try {
      this.#orders.update(await this.#fetch(id));
      this.reconcile();
      this.#emitChange();
    } catch (error) {
      // All orders are fetched again after a reconnect.
      console.warn(`failed to fetch order ${id}:`, error);
    }
  }

  #remove(id) {
    clearTimeout(this.#pending.get(id)?.timer);
    this.#pending.delete(id);
  }

  #emitRejected(id, message) {
    this.dispatchEvent(new CustomEvent("rejected", { detail: { id, message } }));
  }

  #emitChange() {
    this.dispatchEvent(new Event("change"));
  }
}
