// The event stream that replaces a WebSocket.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { EventStream } from "../../../static/api.js";
import { settled } from "./support.mjs";

globalThis.EventSource ??= { CONNECTING: 0, OPEN: 1, CLOSED: 2 };

/** A fake EventSource. */
class Source extends EventTarget {
  closed = false;
  close() {
    this.closed = true;
  }
  emit(event, data) {
    this.dispatchEvent(Object.assign(new Event(event), { data }));
  }
}

function setUp(sendMessage) {
  const source = new Source();
  const stream = new EventStream(source, sendMessage);
  const received = [];
  stream.onopen = () => received.push("open");
  stream.onclose = () => received.push("close");
  stream.onmessage = ({ data }) => received.push(data);
  return { source, stream, received };
}

test("events are emitted as messages", () => {
  const { source, received } = setUp();
  source.onopen();
  source.emit("order-received", "a");
  source.emit("order-updated", "b");
  source.emit("other", "c");
  assert.deepEqual(received, ["open", "a", "b"]);
});

test("a stream closes only when the browser stops reconnecting", () => {
  const { source, received } = setUp();
  source.onopen();
  source.readyState = EventSource.CONNECTING;
  source.onerror();
  assert.equal(source.onopen, null, "a reconnect is not another connection");
  assert.deepEqual(received, ["open"]);
  source.readyState = EventSource.CLOSED;
  source.onerror();
  assert.deepEqual(received, ["open", "close"]);
});

test("messages are sent as requests, and responses are received", async () => {
  const sent = [];
  const { stream, received } = setUp(async (message) => {
    sent.push(message);
    return [{ event: "order-received" }, { event: "pong" }];
  });
  stream.send(JSON.stringify({ event: "ping" }));
  await settled();
  assert.deepEqual(sent, [{ event: "ping" }]);
  assert.deepEqual(received, ['{"event":"order-received"}', '{"event":"pong"}']);
});

test("a failed request emits nothing", async () => {
  mock.method(console, "warn", () => {});
  const { stream, received } = setUp(async () => {
    throw new Error("offline");
  });
  stream.send("{}");
  await settled();
  assert.deepEqual(received, []);
  mock.restoreAll();
});

test("a response after the close is ignored", async () => {
  const { stream, received } = setUp(async () => [{ event: "pong" }]);
  stream.send("{}");
  // As the connection does to discard it.
  stream.onmessage = null;
  stream.close();
  await settled();
  assert.deepEqual(received, []);
});
