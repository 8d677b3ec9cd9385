// A stand-in for a WebSocket where none gets through: server-sent events one
// way, requests the other.

/** As much of a WebSocket as connection.js uses. */
export class Stream {
  onopen = null;
  onmessage = null;
  onclose = null;

  #source;
  #exchange;

  /** `source` is an EventSource; `exchange` promises the answers to a message. */
  constructor(source, exchange) {
    this.#source = source;
    this.#exchange = exchange;
    source.onopen = () => this.onopen?.();
    // When to try again is decided by who uses this.
    source.onerror = () => {
      this.close();
      this.onclose?.();
    };
    for (const event of ["order-received", "order-updated"]) {
      source.addEventListener(event, ({ data }) => this.onmessage?.({ data }));
    }
  }

  send(text) {
    this.#exchange(JSON.parse(text)).then(
      (answers) => {
        for (const answer of answers) this.onmessage?.({ data: JSON.stringify(answer) });
      },
      // No answer is what a silent socket gives, too.
      (error) => console.warn("no answer:", error),
    );
  }

  close() {
    this.#source.close();
  }
}
