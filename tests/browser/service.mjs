// A server that serves the application: a host, or Pushpin in front of the components.

import assert from "node:assert/strict";

import { fetchTrusting } from "./tls.mjs";

export class Service {
  /** The public address: `http://127.0.0.1:PORT`, or with TLS `https://127.0.0.1:PORT`. */
  url;
  /** The address of the control port. */
  control;

  /** Fetches a path. */
  fetch(path, options) {
    const url = `${this.url}${path}`;
    return url.startsWith("https:") ? fetchTrusting(url, options) : fetch(url, options);
  }

  /** Fetches the orders after an id. */
  async orders(after = 0) {
    const response = await this.fetch(`/api/orders?after=${after}`);
    assert.equal(response.status, 200);
    return (await response.json()).orders;
  }

  /** Fetches the id of the newest order; 99 before the first. */
  async newest() {
    const response = await this.fetch(`/api/orders?limit=1`);
    assert.equal(response.status, 200);
    return (await response.json()).orders[0]?.id ?? 99;
  }

  /** Changes an order's status, as another client would. */
  async change(id, to) {
    const response = await this.fetch(`/api/orders/${id}/status`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ status: to }),
    });
    assert.equal(response.status, 200, await response.text());
  }
}
