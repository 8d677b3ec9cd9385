// The feed: what was missed is asked for, once, after subscribing.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Backoff } from "../../../static/connection.js";
import { Feed } from "../../../static/feed.js";
import { Orders } from "../../../static/orders.js";
import { order, settled } from "./support.mjs";

/** A kitchen that tests can break. */
function kitchen(shown, stored) {
  const connection = Object.assign(new EventTarget(), { state: "open" });
  const say = (event, detail) =>
    connection.dispatchEvent(new CustomEvent("message", { detail: { event, detail } }));
  const it = {
    connection,
    stored,
    asked: [],
    told: [],
    broken: false,
    orders: new Orders(12),
    open: () => connection.dispatchEvent(new Event("open")),
    receive: (next) => say("order-received", { order: next }),
    update: (next) => say("order-updated", { order: next }),
    say,
    ids: () => it.orders.list().map(({ id }) => id),
  };
  it.orders.fill(shown);
  const fetchOrders = async (after) => {
    it.asked.push(after);
    if (it.broken) throw new Error("broken");
    return it.stored.filter(({ id }) => after === null || id > after);
  };
  const backoff = new Backoff({ random: () => 1 });
  const feed = new Feed(connection, it.orders, fetchOrders, backoff);
  it.feed = feed;
  feed.addEventListener("change", ({ detail }) => it.told.push(...detail.map(({ id }) => id)));
  return it;
}

test("each connection asks for what came meanwhile, and for what became of the rest", async () => {
  const it = kitchen([order(100)], [order(100), order(101), order(102)]);
  it.open();
  await settled();
  assert.deepEqual(it.asked, [99]);
  assert.deepEqual(it.told, [101, 102]);
  it.stored[1] = order(101, "fired");
  it.stored.push(order(103));
  it.open();
  await settled();
  assert.deepEqual(it.asked, [99, 99]);
  assert.deepEqual(it.told, [101, 102, 103]);
  assert.equal(it.orders.get(101).status, "fired");
});

test("what was never told is found out", async () => {
  const it = kitchen([order(100), order(101)], [order(100), order(101, "fired"), order(102)]);
  it.feed.refresh();
  await settled();
  assert.deepEqual(it.asked, [99]);
  assert.deepEqual(it.told, [102]);
  assert.equal(it.orders.get(101).status, "fired");
  // Without a connection the next one asks.
  it.connection.state = "waiting";
  it.feed.refresh();
  await settled();
  assert.equal(it.asked.length, 1);
});

test("a kitchen that began anew while nobody listened is followed", async () => {
  for (const stored of [[], [order(100, "received", "later")], [order(100), order(101, "received", "later"), order(102)]]) {
    const it = kitchen([order(100), order(101)], stored);
    it.open();
    await settled();
    // That there are none at all may yet be a mistake: the rail keeps what it has.
    const expected = stored.length === 0 ? [order(100), order(101)] : stored;
    assert.deepEqual(it.orders.list(), expected);
  }
});

test("an old answer does not undo what was heard since", async () => {
  const it = kitchen([order(100)], [order(100)]);
  it.open();
  it.update(order(100, "fired"));
  await settled();
  it.update(order(100, "received"));
  it.receive(order(100));
  assert.equal(it.orders.get(100).status, "fired");
});

test("an order that changed before it was known is shown as it is", async () => {
  const it = kitchen([order(100)], [order(100), order(101)]);
  it.open();
  // The answer is on its way, as it was before this.
  it.update(order(101, "fired"));
  await settled();
  assert.equal(it.orders.get(101).status, "fired");
  it.update(order(102, "cancelled"));
  it.receive(order(102));
  assert.equal(it.orders.get(102).status, "cancelled");
});

test("a refusal is handed on when it says of which order", async () => {
  const it = kitchen([order(100)], []);
  const refused = [];
  it.feed.addEventListener("refused", ({ detail }) => refused.push(detail));
  it.say("error", { id: 100, status: "fired", message: "no" });
  it.say("error", { message: "no" });
  it.say("error", null);
  assert.deepEqual(refused, [{ id: 100, status: "fired", message: "no" }]);
});

test("a gap is asked for at once, and once", async () => {
  const it = kitchen([order(100)], [100, 101, 102, 103].map((id) => order(id)));
  it.receive(order(102));
  it.receive(order(103));
  await settled();
  assert.ok(it.asked.length <= 2, `${it.asked}`);
  assert.deepEqual(it.ids(), [100, 101, 102, 103]);
  assert.deepEqual(it.told, [102, 103, 101]);
});

test("orders in sequence ask for nothing", async () => {
  const it = kitchen([order(100)], []);
  for (let id = 101; id < 200; id += 1) it.receive(order(id));
  await settled();
  assert.deepEqual(it.asked, []);
});

test("what could not be fetched is fetched later", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(console, "warn", () => {});
  const it = kitchen([order(100)], [order(101)]);
  it.broken = true;
  it.open();
  await settled();
  mock.timers.tick(500);
  await settled();
  it.broken = false;
  mock.timers.tick(999);
  await settled();
  assert.equal(it.asked.length, 2);
  mock.timers.tick(1);
  await settled();
  assert.deepEqual(it.told, [101]);
  assert.equal(console.warn.mock.callCount(), 2);
  mock.timers.reset();
  mock.restoreAll();
});

test("a kitchen that began anew replaces what is shown", async () => {
  const it = kitchen([order(100), order(101)], [order(100, "received", "later")]);
  it.receive(order(100, "received", "later"));
  await settled();
  assert.deepEqual(it.orders.list(), [order(100, "received", "later")]);
});

test("an order that changed replaces itself; others stay away", async () => {
  const it = kitchen([order(100)], []);
  it.update({ ...order(100), status: "fired" });
  it.update(order(90));
  assert.deepEqual(it.orders.list(), [{ ...order(100), status: "fired" }]);
});

test("messages without an order are ignored", async () => {
  const it = kitchen([order(100)], []);
  for (const detail of [undefined, null, {}, { order: null }, { order: { id: "1" } }]) {
    it.say("order-received", detail);
    it.say("order-updated", detail);
  }
  it.say("pong");
  await settled();
  assert.deepEqual(it.ids(), [100]);
  assert.deepEqual(it.asked, []);
});
