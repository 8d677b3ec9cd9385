// The stand-in for a WebSocket.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Stream } from "../../../static/api.js";
import { settled } from "./support.mjs";

globalThis.EventSource ??= { CONNECTING: 0, OPEN: 1, CLOSED: 2 };

/** What the browser gives. */
class Source extends EventTarget {
  closed = false;
  close() {
    this.closed = true;
  }
  say(event, data) {
    this.dispatchEvent(Object.assign(new Event(event), { data }));
  }
}

function stream(exchange) {
  const source = new Source();
  const it = new Stream(source, exchange);
  const heard = [];
  it.onopen = () => heard.push("open");
  it.onclose = () => heard.push("close");
  it.onmessage = ({ data }) => heard.push(data);
  return { source, it, heard };
}

test("events are messages", () => {
  const { source, heard } = stream();
  source.onopen();
  source.say("order-received", "a");
  source.say("order-updated", "b");
  source.say("other", "c");
  assert.deepEqual(heard, ["open", "a", "b"]);
});

test("the browser asks again by itself, until it does not", () => {
  const { source, heard } = stream();
  source.onopen();
  source.readyState = EventSource.CONNECTING;
  source.onerror();
  assert.equal(source.onopen, null, "the next one is not another connection");
  assert.deepEqual(heard, ["open"]);
  source.readyState = EventSource.CLOSED;
  source.onerror();
  assert.deepEqual(heard, ["open", "close"]);
});

test("what is said is asked, and what is answered is heard", async () => {
  const asked = [];
  const { it, heard } = stream(async (message) => {
    asked.push(message);
    return [{ event: "order-received" }, { event: "pong" }];
  });
  it.send(JSON.stringify({ event: "ping" }));
  await settled();
  assert.deepEqual(asked, [{ event: "ping" }]);
  assert.deepEqual(heard, ['{"event":"order-received"}', '{"event":"pong"}']);
});

test("no answer is silence", async () => {
  mock.method(console, "warn", () => {});
  const { it, heard } = stream(async () => {
    throw new Error("away");
  });
  it.send("{}");
  await settled();
  assert.deepEqual(heard, []);
  mock.restoreAll();
});

test("what is answered too late is not heard", async () => {
  const { it, heard } = stream(async () => [{ event: "pong" }]);
  it.send("{}");
  // As the connection does with what it gives up.
  it.onmessage = null;
  it.close();
  await settled();
  assert.deepEqual(heard, []);
});
