// What is further back than the rail holds: fetched part by part, for who looks.

/** The first id there can be. */
const FIRST = 100;
/** How many orders the service keeps, and so this does at most. */
const KEPT = 1_000;
/** How many are fetched at once. */
const PART = 60;

export class Past {
  #orders;
  #fetch;
  #fetching = null;
  /** The id of the first order that the service has, as far as it is known. */
  #first = FIRST;

  /** `orders` takes what `fetchOrders(after, limit)` promises. */
  constructor(orders, fetchOrders) {
    this.#orders = orders;
    this.#fetch = fetchOrders;
  }

  /** Whether there may be orders before all that are there. */
  get hasMore() {
    const { oldest, size } = this.#orders;
    return oldest !== null && oldest > FIRST && oldest !== this.#first && size < KEPT;
  }

  /**
   * Fetches some of them, one part at a time, and promises whether any came. From
   * now on `orders` has room for all that there are: set its limit to end that.
   */
  fetch() {
    if (!this.hasMore) return Promise.resolve(false);
    this.#fetching ??= this.#part().finally(() => (this.#fetching = null));
    return this.#fetching;
  }

  async #part() {
    // First, or orders that come meanwhile would push out what the answer joins.
    this.#orders.limit = KEPT;
    const { oldest } = this.#orders;
    const answer = await this.#fetch(Math.max(oldest - 1 - PART, 0), PART);
    // In place of those that are too old to be kept, it has others.
    const older = answer.filter(({ id }) => id < oldest);
    if (older.length < PART) this.#first = older[0]?.id ?? oldest;
    this.#orders.extend(older);
    return older.length > 0;
  }
}
