// The orders on the page: each once, sorted, in whatever order they arrive.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Orders } from "../../../static/orders.js";
import { order } from "./support.mjs";

const range = (from, to) => Array.from({ length: to - from }, (_, i) => order(from + i));
const ids = (orders) => orders.list().map(({ id }) => id);

test("a duplicate order is added once", () => {
  const orders = new Orders(12);
  orders.merge(range(100, 103));
  assert.equal(orders.receive(order(103)), "new");
  assert.equal(orders.receive(order(103)), "duplicate");
  assert.deepEqual(orders.merge(range(102, 105)), [order(104)]);
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104]);
});

test("the newest orders are kept", () => {
  const orders = new Orders(12);
  orders.merge(range(100, 112));
  orders.receive(order(112));
  assert.deepEqual(ids(orders), range(101, 113).map(({ id }) => id));
  orders.merge(range(113, 1100));
  assert.deepEqual(ids(orders), range(1088, 1100).map(({ id }) => id));
});

test("a missing id is a gap until it is fetched", () => {
  const orders = new Orders(12);
  orders.merge(range(100, 102));
  orders.receive(order(103));
  assert.ok(orders.hasGap);
  assert.equal(orders.completeUntil, 101);
  assert.deepEqual(orders.merge([order(102), order(103)]), [order(102)]);
  assert.ok(!orders.hasGap);
  assert.deepEqual(ids(orders), [100, 101, 102, 103]);
});

test("an id that does not exist is no gap", () => {
  const orders = new Orders(12);
  orders.merge(range(100, 102));
  orders.receive(order(103));
  orders.merge([order(103)]);
  assert.equal(orders.completeUntil, 103);
  assert.ok(!orders.hasGap);
});

test("a live order before the first response is a gap", () => {
  const orders = new Orders(12);
  assert.ok(!orders.hasGap);
  orders.receive(order(105));
  assert.ok(orders.hasGap);
  assert.equal(orders.completeUntil, null);
  orders.merge(range(100, 106));
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104, 105]);
});

test("a late order is sorted in", () => {
  const orders = new Orders(12);
  orders.merge([order(100), order(102)]);
  assert.equal(orders.receive(order(101)), "unexpected");
  assert.deepEqual(orders.resync(range(100, 103), 102), [order(101)]);
  assert.deepEqual(ids(orders), [100, 101, 102]);
});

test("a reset store replaces the orders", () => {
  for (const shown of [range(100, 140), range(100, 103)]) {
    const orders = new Orders(12);
    orders.merge(shown);
    const first = order(100, "received", "later");
    assert.equal(orders.receive(first), "unexpected");
    assert.deepEqual(orders.resync([first], orders.newest), [first]);
    assert.deepEqual(orders.list(), [first]);
    assert.equal(orders.receive(order(101, "received", "later")), "new");
    assert.ok(!orders.hasGap);
  }
});

test("a response overtaken by a live order is no reset", () => {
  const orders = new Orders(12);
  orders.merge(range(100, 103));
  const { newest } = orders;
  orders.receive(order(103));
  orders.resync(range(100, 103), newest);
  assert.deepEqual(ids(orders), [100, 101, 102, 103]);
});

test("a status never goes back", () => {
  const orders = new Orders(12);
  orders.merge([order(100), order(101, "fired")]);
  assert.ok(!orders.update(order(101)), "the known status is later");
  assert.ok(orders.update(order(101, "fulfilled")));
  assert.ok(!orders.update(order(101, "cancelled")), "both are final, and the first one counts");
  assert.ok(!orders.update(order(99, "fired")), "not on the page");
  orders.merge([order(100, "cancelled"), order(101)]);
  assert.deepEqual(orders.list(), [order(100, "cancelled"), order(101, "fulfilled")]);
});

test("an update before its order is not lost", () => {
  const orders = new Orders(12);
  orders.merge(range(103, 106));
  // Each order was read before its update, and arrives after it.
  for (const id of [101, 106, 107]) assert.ok(!orders.update(order(id, "fired")));
  orders.update(order(101));
  orders.receive(order(106));
  orders.merge([order(107)]);
  orders.prepend([order(101), order(102)]);
  const fired = orders.list().filter(({ status }) => status === "fired");
  assert.deepEqual(fired.map(({ id }) => id), [101, 106, 107]);
  // After a reset, the same id is a different order.
  orders.update(order(108, "fired", "before"));
  orders.receive(order(108));
  assert.equal(orders.get(108).status, "received");
});

test("the number of remembered updates is bounded", () => {
  const orders = new Orders(2_000);
  orders.merge([order(5_000)]);
  for (let id = 100; id < 1_100; id += 1) orders.update(order(id, "fired"));
  // Fetched orders are not remembered.
  orders.merge(range(5_001, 6_000));
  orders.prepend(range(100, 1_100));
  const fired = orders.list().filter(({ status }) => status === "fired");
  assert.deepEqual(fired.map(({ id }) => id), range(900, 1_100).map(({ id }) => id));
});

test("older orders are kept up to the limit", () => {
  const orders = new Orders(3);
  orders.merge(range(103, 106));
  orders.prepend(range(100, 103));
  assert.equal(orders.oldest, 103);
  orders.limit = 6;
  orders.prepend(range(100, 103));
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104, 105]);
  assert.ok(!orders.hasGap);
  orders.limit = 3;
  assert.deepEqual(ids(orders), [103, 104, 105]);
  orders.limit = 5;
  orders.prepend(range(100, 103));
  assert.deepEqual(ids(orders), [101, 102, 103, 104, 105]);
});

test("loss, repetition and disorder end in the latest orders", () => {
  // A seeded generator, so that failures can be reproduced.
  for (let seed = 1; seed <= 500; seed += 1) {
    let state = seed;
    const random = () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    const all = range(100, 100 + Math.floor(random() * 40));
    const orders = new Orders(12);
    const emitted = [];
    const fetch = (upTo) => {
      const after = orders.completeUntil;
      const response = all.slice(0, upTo).filter(({ id }) => after === null || id > after);
      emitted.push(...orders.merge(after === null ? response.slice(-12) : response));
    };
    all.forEach((next, index) => {
      if (random() < 0.3) return;
      for (let times = random() < 0.2 ? 2 : 1; times > 0; times -= 1) {
        if (orders.receive(next) === "new") emitted.push(next);
      }
      if (orders.hasGap && random() < 0.5) fetch(index + 1);
    });
    fetch(all.length);
    assert.deepEqual(orders.list(), all.slice(-12), `seed ${seed}`);
    assert.equal(new Set(emitted).size, emitted.length, `seed ${seed}: emitted twice`);
  }
});
