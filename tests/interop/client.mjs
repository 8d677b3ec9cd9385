// What the tests are as clients: a WebSocket whose messages are awaited, and a streamed body.

import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

/** Nothing that a test waits for takes this long, in ms, unless it never comes. */
const PATIENCE = 20_000;

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
    await within("the socket's opening", once(socket.#socket, "open"));
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

  /** Closes; gives the code that the server answers with. */
  async close(code) {
    this.#socket.close(code);
    return this.closed();
  }

  /** Is gone without a close. */
  vanish() {
    this.#socket.terminate();
  }

  /** The code that the server closes with. */
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

  /** Reads until `text` has come; what was before it is passed over. */
  async until(text) {
    let at;
    while ((at = this.#text.indexOf(text)) === -1) {
      const { value, done } = await within(text, this.#reader.read());
      assert.ok(!done, `the stream ends before ${JSON.stringify(text)}`);
      this.#text += value;
    }
    this.#text = this.#text.slice(at + text.length);
  }

  close() {
    this.#controller.abort();
  }
}

export async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
