// A server for the tests of the client module. It speaks rooms.v1, and breaks its rules on demand.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { WebSocketServer } from "ws";

const MODULE = new URL("../../client/src/reconnecting-socket.js", import.meta.url);
const PROTOCOL = "rooms.v1";
const CHANNEL = "room:1";
/** How many items the room keeps. */
const KEPT = 20;

export class RoomsServer {
  /** What happens to a handshake: `accept`, `stall` (accepted, and nothing is sent), or `refuse`. */
  mode = "accept";
  /** Whether the server selects the subprotocol. */
  selects = true;
  /** The number of handshakes, and the URLs of all requests for the room. */
  handshakes = 0;
  urls = [];
  /** The text and binary messages of clients, without pings and requests to resume. */
  received = [];
  /** The requests to resume. */
  resumes = [];
  /** How the server answers a request to resume: `items`, `reset`, or `nothing`. */
  resumeMode = "items";

  #http;
  #sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => this.selects && offered.has(PROTOCOL) && PROTOCOL });
  #clients = new Set();
  #items = [];
  #last = 0;

  /** Starts a server on a free port. */
  static async start() {
    const server = new RoomsServer();
    server.#http = createServer((request, response) => server.#respond(request, response));
    server.#http.on("upgrade", (request, socket, head) => server.#upgrade(request, socket, head));
    server.#http.listen(0, "127.0.0.1");
    await once(server.#http, "listening");
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.#http.address().port}`;
  }

  get clients() {
    return this.#clients.size;
  }

  /** Adds an item to the room. Clients get it, unless `isSent` is false. */
  publish({ isSent = true } = {}) {
    this.#last += 1;
    this.#items.push({ $: "item", channel: CHANNEL, id: this.#last, data: `item ${this.#last}` });
    this.#items.splice(0, this.#items.length - KEPT);
    if (isSent) this.broadcast(JSON.stringify(this.#items.at(-1)));
    return this.#last;
  }

  /** Sends all clients a message. */
  broadcast(message) {
    for (const client of this.#clients) client.send(message);
  }

  /** Empties the room, as if its store was lost. */
  empty() {
    this.#items = [];
    this.#last = 0;
  }

  /** Closes all connections with a code, or cuts them. */
  disconnect(code, reason) {
    for (const client of this.#clients) client.end(code, reason);
  }

  async stop() {
    this.disconnect();
    this.#http.close();
    this.#http.closeAllConnections();
    await once(this.#http, "close");
  }

  async #respond(request, response) {
    const { pathname } = new URL(request.url, this.url);
    if (pathname === "/room") {
      this.#stream(request, response);
    } else if (pathname === "/token") {
      response.end(`token-${this.urls.length}`);
    } else if (pathname === "/reconnecting-socket.js") {
      response.setHeader("content-type", "text/javascript");
      response.end(await readFile(MODULE));
    } else {
      response.setHeader("content-type", "text/html");
      response.end('<!doctype html><title>rooms</title><link rel="icon" href="data:,">');
    }
  }

  #stream(request, response) {
    this.urls.push(request.url);
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const send = (message) => response.write(`data: ${message}\n\n`);
    const client = { send, end: () => response.destroy() };
    this.#join(client, request);
    response.on("close", () => this.#clients.delete(client));
  }

  #upgrade(request, socket, head) {
    this.handshakes += 1;
    this.urls.push(request.url);
    if (this.mode === "refuse") {
      socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (webSocket) => {
      const end = (code, reason) => (code === undefined ? webSocket.terminate() : webSocket.close(code, reason));
      const client = { send: (message) => webSocket.send(message), end };
      webSocket.on("close", () => this.#clients.delete(client));
      const isStalled = this.mode === "stall";
      if (isStalled) client.send = () => {};
      if (webSocket.protocol === PROTOCOL && !isStalled) this.#join(client, request);
      else this.#clients.add(client);
      if (isStalled) return;
      webSocket.on("message", (data, isBinary) => this.#receive(client, isBinary ? data : data.toString(), webSocket.protocol));
    });
  }

  #join(client, request) {
    const positions = new URL(request.url, this.url).searchParams.getAll("resume");
    this.#clients.add(client);
    if (positions.length === 0) {
      client.send('{"$":"open"}');
      for (const item of this.#items) client.send(JSON.stringify(item));
      return;
    }
    const after = Number(positions.find((it) => it.endsWith(`,${CHANNEL}`))?.split(",")[0]);
    const recovered = this.#knows(after);
    client.send(JSON.stringify({ $: "open", recovered }));
    this.#resume(client, recovered ? after : null);
  }

  /** Whether the room still has everything after an item. */
  #knows(id) {
    return id <= this.#last && id >= this.#last - this.#items.length;
  }

  #resume(client, after) {
    if (after === null) client.send(JSON.stringify({ $: "reset", channel: CHANNEL }));
    for (const item of this.#items) if (after === null || item.id > after) client.send(JSON.stringify(item));
  }

  #receive(client, message, protocol) {
    if (protocol === PROTOCOL && message === '{"$":"ping"}') {
      client.send('{"$":"pong"}');
      return;
    }
    if (protocol === PROTOCOL && String(message).startsWith('{"$":"resume"')) {
      const { id } = JSON.parse(message);
      this.resumes.push(id);
      if (this.resumeMode !== "nothing") this.#resume(client, this.resumeMode === "items" && this.#knows(id) ? id : null);
      return;
    }
    this.received.push(message);
    client.send(message);
  }
}
