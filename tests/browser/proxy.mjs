// A TCP proxy that simulates network failures.

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Proxy {
  #server;
  #target;
  #pairs = new Set();
  #isFrozen = false;
  /** A pattern for the first bytes of connections to reset. */
  refuse = null;

  /** Starts a proxy in front of `url`. */
  static async start(url) {
    const proxy = new Proxy();
    const { hostname, port } = new URL(url);
    proxy.#target = { host: hostname, port };
    proxy.#server = createServer((client) => proxy.#accept(client));
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** The proxy's own address. */
  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Stops forwarding without closing connections. New connections hang, too. */
  freeze() {
    this.#isFrozen = true;
    for (const pair of this.#pairs) for (const socket of pair) socket.pause();
  }

  /** Forwards again, including what arrived meanwhile. */
  thaw() {
    this.#isFrozen = false;
    for (const pair of this.#pairs) for (const socket of pair) socket.resume();
  }

  /** Closes all connections, drops what arrived meanwhile, and forwards new connections. */
  heal() {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    this.#isFrozen = false;
  }

  /** Forwards new connections, while the old ones stay frozen. */
  renew() {
    this.#isFrozen = false;
  }

  async stop() {
    this.heal();
    this.#server.close();
    await once(this.#server, "close");
  }

  #accept(client) {
    const host = connect(this.#target);
    const pair = [client, host];
    this.#pairs.add(pair);
    let isFirst = true;
    client.on("data", (data) => {
      if (isFirst && this.refuse?.test(data.toString("latin1"))) client.destroy();
      else host.write(data);
      isFirst = false;
    });
    host.on("data", (data) => client.write(data));
    for (const socket of pair) {
      socket.setNoDelay(true);
      socket.on("error", () => {});
      socket.on("end", () => {
        for (const other of pair) other.end();
      });
      socket.on("close", () => {
        this.#pairs.delete(pair);
        for (const other of pair) other.destroy();
      });
      if (this.#isFrozen) socket.pause();
    }
  }
}
