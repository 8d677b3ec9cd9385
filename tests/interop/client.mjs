// Test clients: a WebSocket with awaitable messages, and a streamed response.

import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const TIMEOUT_MS = 20_000;

export class Socket {
  #socket;
  #messages = [];
  #wake = () => {};
  #closed;

  static async open(url) {
    const socket = new Socket();
    socket.#socket = new WebSocket(url.replace(/^http/, "ws"));
    socket.#socket.on("message", (data, isBinary) => {
      socket.#messages.push(isBinary ? data : data.toString());
      socket.#wake();
    });
    socket.#closed = once(socket.#socket, "close");
    await within("the socket to open", once(socket.#socket, "open"));
    return socket;
  }

  send(message) {
    this.#socket.send(message);
  }

  async next() {
    while (this.#messages.length === 0) {
      await within("a message", new Promise((resolve) => (this.#wake = resolve)));
    }
    return this.#messages.shift();
  }

  /** Closes the socket, and returns the server's close code. */
  async close(code) {
    this.#socket.close(code);
    return this.closed();
  }

  /** Disconnects without a close frame. */
  terminate() {
    this.#socket.terminate();
  }

  /** Waits for the close, and returns the server's close code. */
  async closed() {
    const [code] = await within("the close", this.#closed);
    return code;
  }
}

export class Stream {
  #controller = new AbortController();
  #reader;
  #text = "";

  static async open(url, type = "text/event-stream") {
    const stream = new Stream();
    const response = await fetch(url, { signal: stream.#controller.signal });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-type"), type);
    stream.#reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    return stream;
  }

  /** Reads up to and including `text`. */
  async until(text) {
    let at;
    while ((at = this.#text.indexOf(text)) === -1) {
      const { value, done } = await within(text, this.#reader.read());
      assert.ok(!done, `the stream ended before ${JSON.stringify(text)}`);
      this.#text += value;
    }
    this.#text = this.#text.slice(at + text.length);
  }

  close() {
    this.#controller.abort();
  }
}

/** Awaits `promise`, with a timeout. */
export async function within(what, promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out waiting for ${what}`)), TIMEOUT_MS);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
