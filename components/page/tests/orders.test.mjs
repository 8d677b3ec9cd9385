// The rail's orders: each once, in order, whatever order they come in.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Orders } from "../../../static/orders.js";
import { order } from "./support.mjs";

const range = (from, to) => Array.from({ length: to - from }, (_, i) => order(from + i));
const ids = (orders) => orders.list().map(({ id }) => id);

test("an order that comes twice is shown once", () => {
  const orders = new Orders(12);
  orders.fill(range(100, 103));
  assert.equal(orders.receive(order(103)), "new");
  assert.equal(orders.receive(order(103)), "known");
  assert.deepEqual(orders.fill(range(102, 105)), [order(104)]);
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104]);
});

test("the latest few are kept", () => {
  const orders = new Orders(12);
  orders.fill(range(100, 112));
  orders.receive(order(112));
  assert.deepEqual(ids(orders), range(101, 113).map(({ id }) => id));
  orders.fill(range(113, 1100));
  assert.deepEqual(ids(orders), range(1088, 1100).map(({ id }) => id));
});

test("a missing id is a gap until it is filled", () => {
  const orders = new Orders(12);
  orders.fill(range(100, 102));
  orders.receive(order(103));
  assert.ok(orders.hasGap);
  assert.equal(orders.complete, 101);
  assert.deepEqual(orders.fill([order(102), order(103)]), [order(102)]);
  assert.ok(!orders.hasGap);
  assert.deepEqual(ids(orders), [100, 101, 102, 103]);
});

test("an id that was never used is not waited for", () => {
  const orders = new Orders(12);
  orders.fill(range(100, 102));
  orders.receive(order(103));
  orders.fill([order(103)]);
  assert.equal(orders.complete, 103);
  assert.ok(!orders.hasGap);
});

test("a live order before the first answer is a gap: what was before it is unknown", () => {
  const orders = new Orders(12);
  assert.ok(!orders.hasGap);
  orders.receive(order(105));
  assert.ok(orders.hasGap);
  assert.equal(orders.complete, null);
  orders.fill(range(100, 106));
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104, 105]);
});

test("a late order takes its place", () => {
  const orders = new Orders(12);
  orders.fill([order(100), order(102)]);
  assert.equal(orders.receive(order(101)), "odd");
  assert.deepEqual(orders.settle(range(100, 103), 102), [order(101)]);
  assert.deepEqual(ids(orders), [100, 101, 102]);
});

test("a kitchen that begins anew is followed", () => {
  for (const shown of [range(100, 140), range(100, 103)]) {
    const orders = new Orders(12);
    orders.fill(shown);
    const first = order(100, "received", "later");
    assert.equal(orders.receive(first), "odd");
    assert.deepEqual(orders.settle([first], orders.newest), [first]);
    assert.deepEqual(orders.list(), [first]);
    assert.equal(orders.receive(order(101, "received", "later")), "new");
    assert.ok(!orders.hasGap);
  }
});

test("an answer overtaken by a live order is not a kitchen begun anew", () => {
  const orders = new Orders(12);
  orders.fill(range(100, 103));
  const { newest } = orders;
  orders.receive(order(103));
  orders.settle(range(100, 103), newest);
  assert.deepEqual(ids(orders), [100, 101, 102, 103]);
});

test("a status only ever gets further", () => {
  const orders = new Orders(12);
  orders.fill([order(100), order(101, "fired")]);
  assert.ok(!orders.update(order(101)), "what is known is later");
  assert.ok(orders.update(order(101, "fulfilled")));
  assert.ok(!orders.update(order(101, "cancelled")), "both are the end: the first one was");
  assert.ok(!orders.update(order(99, "fired")), "not shown");
  orders.fill([order(100, "cancelled"), order(101)]);
  assert.deepEqual(orders.list(), [order(100, "cancelled"), order(101, "fulfilled")]);
});

test("news of an order that is not there yet is not lost", () => {
  const orders = new Orders(12);
  orders.fill(range(103, 106));
  // Each is read before it changes, and comes after.
  for (const id of [101, 106, 107]) assert.ok(!orders.update(order(id, "fired")));
  orders.update(order(101));
  orders.receive(order(106));
  orders.fill([order(107)]);
  orders.extend([order(101), order(102)]);
  const fired = orders.list().filter(({ status }) => status === "fired");
  assert.deepEqual(fired.map(({ id }) => id), [101, 106, 107]);
  // Of a kitchen that began anew it is another order.
  orders.update(order(108, "fired", "before"));
  orders.receive(order(108));
  assert.equal(orders.get(108).status, "received");
});

test("not all news is remembered for ever", () => {
  const orders = new Orders(2_000);
  orders.fill([order(5_000)]);
  for (let id = 100; id < 1_100; id += 1) orders.update(order(id, "fired"));
  // What is fetched is no news.
  orders.fill(range(5_001, 6_000));
  orders.extend(range(100, 1_100));
  const fired = orders.list().filter(({ status }) => status === "fired");
  assert.deepEqual(fired.map(({ id }) => id), range(900, 1_100).map(({ id }) => id));
});

test("older ones are there as long as there is room for them", () => {
  const orders = new Orders(3);
  orders.fill(range(103, 106));
  orders.extend(range(100, 103));
  assert.equal(orders.oldest, 103);
  orders.limit = 6;
  orders.extend(range(100, 103));
  assert.deepEqual(ids(orders), [100, 101, 102, 103, 104, 105]);
  assert.ok(!orders.hasGap);
  orders.limit = 3;
  assert.deepEqual(ids(orders), [103, 104, 105]);
  orders.limit = 5;
  orders.extend(range(100, 103));
  assert.deepEqual(ids(orders), [101, 102, 103, 104, 105]);
});

test("any loss, repetition and disorder ends in the latest orders, in order", () => {
  // A small generator of our own, so that a failure can be repeated.
  for (let seed = 1; seed <= 500; seed += 1) {
    let state = seed;
    const random = () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    const made = range(100, 100 + Math.floor(random() * 40));
    const orders = new Orders(12);
    const told = [];
    const ask = (upTo) => {
      const after = orders.complete;
      const answer = made.slice(0, upTo).filter(({ id }) => after === null || id > after);
      told.push(...orders.fill(after === null ? answer.slice(-12) : answer));
    };
    made.forEach((next, index) => {
      if (random() < 0.3) return;
      for (let times = random() < 0.2 ? 2 : 1; times > 0; times -= 1) {
        if (orders.receive(next) === "new") told.push(next);
      }
      if (orders.hasGap && random() < 0.5) ask(index + 1);
    });
    ask(made.length);
    assert.deepEqual(orders.list(), made.slice(-12), `seed ${seed}`);
    assert.equal(new Set(told).size, told.length, `seed ${seed}: told twice`);
  }
});
