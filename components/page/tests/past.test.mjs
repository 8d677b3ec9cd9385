// Looking back: all that the service keeps can be reached.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { Orders, Past } from "../../../static/orders.js";
import { order } from "./support.mjs";

const RAIL = 12;
const range = (from, to) => Array.from({ length: to - from }, (_, i) => order(from + i));

/** A page that shows the latest of `stored`. */
function page(stored) {
  const orders = new Orders(RAIL);
  orders.fill(stored.slice(-RAIL));
  const it = { orders, stored, asked: 0 };
  it.past = new Past(orders, async (after, limit) => {
    it.asked += 1;
    await it.meanwhile?.();
    return it.stored.filter(({ id }) => id > after).slice(0, limit);
  });
  it.all = async () => {
    while (await it.past.fetch());
  };
  return it;
}

function assertWhole({ orders }, from, to) {
  assert.deepEqual(orders.list().map(({ id }) => id), range(from, to).map(({ id }) => id));
}

test("the last thousand can be reached, and then there is no more", async () => {
  for (const newest of [112, 113, 171, 172, 700, 1_099, 1_100, 5_000]) {
    const first = Math.max(100, newest - 1_000);
    const it = page(range(first, newest));
    assert.equal(it.past.hasMore, newest > 112, `${newest}`);
    await it.all();
    assertWhole(it, first, newest);
    assert.equal(it.past.hasMore, false);
    const { asked } = it;
    await it.past.fetch();
    assert.equal(it.asked, asked, "and nobody asks");
  }
});

test("orders that come meanwhile leave no hole", async () => {
  const it = page(range(100, 300));
  let next = 300;
  it.meanwhile = () => it.orders.receive(order(next++));
  await it.all();
  assertWhole(it, 100, next);
});

test("what the service no longer keeps is not waited for", async () => {
  const it = page(range(4_000, 5_000));
  await it.past.fetch();
  // Back at the newest, and again later: the first is another one.
  it.orders.limit = RAIL;
  it.stored = range(4_500, 5_000);
  await it.all();
  assertWhole(it, 4_500, 5_000);
  assert.equal(it.past.hasMore, false);
});

test("a kitchen that began anew has a past of its own", async () => {
  const it = page(range(4_000, 5_000));
  await it.all();
  it.orders.limit = RAIL;
  it.stored = range(100, 150).map(({ id }) => order(id, "received", "later"));
  it.orders.settle(it.stored.slice(-RAIL), it.orders.newest);
  assert.equal(it.past.hasMore, true);
  await it.all();
  assert.deepEqual(it.orders.list(), it.stored);
});

test("an answer that does not come leaves the way open", async () => {
  const it = page(range(100, 200));
  it.meanwhile = async () => {
    throw new Error("away");
  };
  mock.timers.enable({ apis: ["setTimeout"] });
  await assert.rejects(it.past.fetch(), /away/);
  assert.equal(it.past.hasMore, true);
  it.meanwhile = null;
  // Who scrolls asks many times: for a while there is one answer to all.
  mock.timers.tick(1_900);
  for (let asks = 0; asks < 50; asks += 1) await assert.rejects(it.past.fetch(), /away/);
  assert.equal(it.asked, 1);
  mock.timers.tick(200);
  assert.equal(await it.past.fetch(), true);
  mock.timers.reset();
});

test("who asks twice at once gets one answer", async () => {
  const it = page(range(100, 200));
  assert.deepEqual(await Promise.all([it.past.fetch(), it.past.fetch()]), [true, true]);
  assert.equal(it.asked, 1);
});

test("there is nothing before nothing", async () => {
  const it = page([]);
  assert.equal(it.past.hasMore, false);
  assert.equal(await it.past.fetch(), false);
});
