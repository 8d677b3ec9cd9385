// The feed: fetches missing orders once, after subscribing.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Backoff } from "../../../client/src/reconnecting-socket.js";
import { Feed } from "../../../static/feed.js";
import { Orders } from "../../../static/orders.js";
import { order, settled } from "./support.mjs";

/** A feed with a fake socket and a fake service. */
function setUp(shown, stored) {
  const socket = Object.assign(new EventTarget(), { OPEN: 1, readyState: 1 });
  const receive = (data) => socket.dispatchEvent(new MessageEvent("message", { data }));
  const send = (event, detail) => receive(JSON.stringify({ event, detail }));
  const context = {
    socket,
    stored,
    requests: [],
    emitted: [],
    isBroken: false,
    orders: new Orders(12),
    open: (resumes = false) => {
      socket.url = `wss://burger.example/api/ws${resumes ? "?after=100-t100" : ""}`;
      socket.dispatchEvent(new Event("open"));
    },
    receive: (next) => send("order-received", { order: next }),
    update: (next) => send("order-updated", { order: next }),
    send,
    receiveText: receive,
    ids: () => context.orders.list().map(({ id }) => id),
  };
  context.orders.merge(shown);
  const fetchOrders = async (after) => {
    context.requests.push(after);
    if (context.isBroken) throw new Error("broken");
    return context.stored.filter(({ id }) => after === null || id > after);
  };
  const backoff = new Backoff({ random: () => 1 });
  const feed = new Feed(socket, context.orders, fetchOrders, backoff);
  context.feed = feed;
  feed.addEventListener("change", ({ detail }) => context.emitted.push(...detail.map(({ id }) => id)));
  return context;
}

test("each connection fetches new orders and the changes of others", async () => {
  const context = setUp([order(100)], [order(100), order(101), order(102)]);
  context.open();
  await settled();
  assert.deepEqual(context.requests, [99]);
  assert.deepEqual(context.emitted, [101, 102]);
  context.stored[1] = order(101, "fired");
  context.stored.push(order(103));
  context.open();
  await settled();
  assert.deepEqual(context.requests, [99, 99]);
  assert.deepEqual(context.emitted, [101, 102, 103]);
  assert.equal(context.orders.get(101).status, "fired");
});

test("a connection that resumes fetches only when it is asked to", async () => {
  const context = setUp([order(100)], [order(100), order(101)]);
  assert.equal(context.feed.position, null);
  context.open();
  await settled();
  assert.equal(context.feed.position, `101-${order(101).timestamp}`);
  context.open(true);
  context.receive(order(102));
  await settled();
  assert.deepEqual(context.requests, [99]);
  assert.deepEqual(context.emitted, [101, 102]);
  context.stored.push(order(102), order(103));
  context.send("reload");
  await settled();
  assert.deepEqual(context.requests, [99, 99]);
  assert.deepEqual(context.emitted, [101, 102, 103]);
});

test("the position is the last order before which none is missing", async () => {
  const context = setUp([], [order(100), order(101)]);
  context.open();
  await settled();
  context.receive(order(103));
  await settled();
  assert.equal(context.feed.position, `101-${order(101).timestamp}`);
});

test("refresh fetches what was never published", async () => {
  const context = setUp([order(100), order(101)], [order(100), order(101, "fired"), order(102)]);
  context.feed.refresh();
  await settled();
  assert.deepEqual(context.requests, [99]);
  assert.deepEqual(context.emitted, [102]);
  assert.equal(context.orders.get(101).status, "fired");
  // Without a connection, the next one fetches.
  context.socket.readyState = 0;
  context.feed.refresh();
  await settled();
  assert.equal(context.requests.length, 1);
});

test("a store that was reset while disconnected replaces the orders", async () => {
  for (const stored of [[], [order(100, "received", "later")], [order(100), order(101, "received", "later"), order(102)]]) {
    const context = setUp([order(100), order(101)], stored);
    context.open();
    await settled();
    // An empty response may be a mistake, so the orders stay.
    const expected = stored.length === 0 ? [order(100), order(101)] : stored;
    assert.deepEqual(context.orders.list(), expected);
  }
});

test("an outdated response does not undo an update", async () => {
  const context = setUp([order(100)], [order(100)]);
  context.open();
  context.update(order(100, "fired"));
  await settled();
  context.update(order(100, "received"));
  context.receive(order(100));
  assert.equal(context.orders.get(100).status, "fired");
});

test("an update before its order is applied", async () => {
  const context = setUp([order(100)], [order(100), order(101)]);
  context.open();
  // The response is under way, and older than this update.
  context.update(order(101, "fired"));
  await settled();
  assert.equal(context.orders.get(101).status, "fired");
  context.update(order(102, "cancelled"));
  context.receive(order(102));
  assert.equal(context.orders.get(102).status, "cancelled");
});

test("a rejection with an order's id is emitted", async () => {
  const context = setUp([order(100)], []);
  const rejected = [];
  context.feed.addEventListener("rejected", ({ detail }) => rejected.push(detail));
  context.send("error", { id: 100, status: "fired", message: "no" });
  context.send("error", { message: "no" });
  context.send("error", null);
  assert.deepEqual(rejected, [{ id: 100, status: "fired", message: "no" }]);
});

test("a gap is fetched at once, and once", async () => {
  const context = setUp([order(100)], [100, 101, 102, 103].map((id) => order(id)));
  context.receive(order(102));
  context.receive(order(103));
  await settled();
  assert.ok(context.requests.length <= 2, `${context.requests}`);
  assert.deepEqual(context.ids(), [100, 101, 102, 103]);
  assert.deepEqual(context.emitted, [102, 103, 101]);
});

test("orders in sequence cause no requests", async () => {
  const context = setUp([order(100)], []);
  for (let id = 101; id < 200; id += 1) context.receive(order(id));
  await settled();
  assert.deepEqual(context.requests, []);
});

test("a failed request is retried", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(console, "warn", () => {});
  const context = setUp([order(100)], [order(101)]);
  context.isBroken = true;
  context.open();
  await settled();
  mock.timers.tick(500);
  await settled();
  context.isBroken = false;
  mock.timers.tick(999);
  await settled();
  assert.equal(context.requests.length, 2);
  mock.timers.tick(1);
  await settled();
  assert.deepEqual(context.emitted, [101]);
  assert.equal(console.warn.mock.callCount(), 2);
  mock.timers.reset();
  mock.restoreAll();
});

test("a store that was reset replaces the orders", async () => {
  const context = setUp([order(100), order(101)], [order(100, "received", "later")]);
  context.receive(order(100, "received", "later"));
  await settled();
  assert.deepEqual(context.orders.list(), [order(100, "received", "later")]);
});

test("an update replaces its order, and adds no other", async () => {
  const context = setUp([order(100)], []);
  context.update({ ...order(100), status: "fired" });
  context.update(order(90));
  assert.deepEqual(context.orders.list(), [{ ...order(100), status: "fired" }]);
});

test("messages without an order are ignored", async () => {
  const context = setUp([order(100)], []);
  for (const detail of [undefined, null, {}, { order: null }, { order: { id: "1" } }]) {
    context.send("order-received", detail);
    context.send("order-updated", detail);
  }
  context.send("pong");
  for (const text of ["{", "null", "[]", '"text"', '{"event":1}']) context.receiveText(text);
  await settled();
  assert.deepEqual(context.ids(), [100]);
  assert.deepEqual(context.requests, []);
});
