// Older orders: all that the service stores can be fetched.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { History, Orders } from "../../../static/orders.js";
import { order } from "./support.mjs";

const RAIL_SIZE = 12;
const range = (from, to) => Array.from({ length: to - from }, (_, i) => order(from + i));

/** Orders with the latest of `stored`, and their history. */
function setUp(stored) {
  const orders = new Orders(RAIL_SIZE);
  orders.merge(stored.slice(-RAIL_SIZE));
  const context = { orders, stored, requests: 0 };
  context.history = new History(orders, async (after, limit) => {
    context.requests += 1;
    await context.beforeResponse?.();
    return context.stored.filter(({ id }) => id > after).slice(0, limit);
  });
  context.fetchAll = async () => {
    while (await context.history.fetchMore());
  };
  return context;
}

function assertIds({ orders }, from, to) {
  assert.deepEqual(orders.list().map(({ id }) => id), range(from, to).map(({ id }) => id));
}

test("the last thousand orders can be fetched, and no more", async () => {
  for (const newest of [112, 113, 171, 172, 700, 1_099, 1_100, 5_000]) {
    const first = Math.max(100, newest - 1_000);
    const context = setUp(range(first, newest));
    assert.equal(context.history.hasMore, newest > 112, `${newest}`);
    await context.fetchAll();
    assertIds(context, first, newest);
    assert.equal(context.history.hasMore, false);
    const { requests } = context;
    await context.history.fetchMore();
    assert.equal(context.requests, requests, "no further request");
  }
});

test("orders that arrive meanwhile leave no gap", async () => {
  const context = setUp(range(100, 300));
  let next = 300;
  context.beforeResponse = () => context.orders.receive(order(next++));
  await context.fetchAll();
  assertIds(context, 100, next);
});

test("orders that the service has dropped are not expected", async () => {
  const context = setUp(range(4_000, 5_000));
  await context.history.fetchMore();
  // Scrolled to the newest and back again later, when the service's oldest is another one.
  context.orders.limit = RAIL_SIZE;
  context.stored = range(4_500, 5_000);
  await context.fetchAll();
  assertIds(context, 4_500, 5_000);
  assert.equal(context.history.hasMore, false);
});

test("a reset store has a history of its own", async () => {
  const context = setUp(range(4_000, 5_000));
  await context.fetchAll();
  context.orders.limit = RAIL_SIZE;
  context.stored = range(100, 150).map(({ id }) => order(id, "received", "later"));
  context.orders.resync(context.stored.slice(-RAIL_SIZE), context.orders.newest);
  assert.equal(context.history.hasMore, true);
  await context.fetchAll();
  assert.deepEqual(context.orders.list(), context.stored);
});

test("a failed request can be repeated", async () => {
  const context = setUp(range(100, 200));
  context.beforeResponse = async () => {
    throw new Error("offline");
  };
  mock.timers.enable({ apis: ["setTimeout"] });
  await assert.rejects(context.history.fetchMore(), /offline/);
  assert.equal(context.history.hasMore, true);
  context.beforeResponse = null;
  // Scrolling calls it often, so it keeps the failed result for a while.
  mock.timers.tick(1_900);
  for (let calls = 0; calls < 50; calls += 1) await assert.rejects(context.history.fetchMore(), /offline/);
  assert.equal(context.requests, 1);
  mock.timers.tick(200);
  assert.equal(await context.history.fetchMore(), true);
  mock.timers.reset();
});

test("concurrent calls share a request", async () => {
  const context = setUp(range(100, 200));
  assert.deepEqual(await Promise.all([context.history.fetchMore(), context.history.fetchMore()]), [true, true]);
  assert.equal(context.requests, 1);
});

test("there is no history without orders", async () => {
  const context = setUp([]);
  assert.equal(context.history.hasMore, false);
  assert.equal(await context.history.fetchMore(), false);
});
