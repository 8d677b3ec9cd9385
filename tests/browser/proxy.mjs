// A TCP proxy that simulates network failures.

import { once } from "node:events";
import * as net from "node:net";
import * as tls from "node:tls";

import { testCertificate } from "./tls.mjs";

/** Makes browsers open each WebSocket on a connection of its own. */
const ALPNProtocols = ["http/1.1"];

export class Proxy {
  #server;
  #url;
  /** Opens a connection to the target. */
  #connect;
  #pairs = new Set();
  #isFrozen = false;
  /** A pattern for the first bytes of connections to reset. */
  refuse;

  /**
   * Starts a proxy in front of `url`. It forwards encrypted connections as they are, unless `refuse` is given:
   * to read requests, it then terminates TLS, without HTTP/2.
   */
  static async start(url, { refuse = null } = {}) {
    const proxy = new Proxy();
    proxy.refuse = refuse;
    proxy.#url = new URL(url);
    const accept = (client) => proxy.#accept(client);
    const { hostname: host, port, protocol } = proxy.#url;
    if (protocol === "https:" && refuse) {
      const { cert, key } = await testCertificate();
      proxy.#server = tls.createServer({ cert, key, ALPNProtocols }, accept);
      proxy.#connect = () => tls.connect({ host, port, ca: cert, ALPNProtocols });
    } else {
      proxy.#server = net.createServer(accept);
      proxy.#connect = () => net.connect({ host, port });
    }
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** The proxy's own address. */
  get url() {
    return `${this.#url.protocol}//127.0.0.1:${this.#server.address().port}`;
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
    const host = this.#connect();
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
