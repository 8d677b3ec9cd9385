// Steps show at once, and go back when they do not become true.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Changes } from "../../../static/changes.js";
import { Orders } from "../../../static/orders.js";
import { order, settled } from "./support.mjs";

let orders;
let changes;
let sent;
let refused;
/** What the service would answer about an order; null is no answer. */
let truth;

const shown = (id) => changes.shown(orders.get(id)).status;

/** News of the service. */
function hear(id, status) {
  orders.update(order(id, status));
  changes.settle();
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(console, "warn", () => {});
  orders = new Orders(12);
  orders.fill([order(100), order(101)]);
  sent = [];
  refused = [];
  truth = null;
  const fetchOrder = async (id) => {
    if (truth === null) throw new Error("no answer");
    return order(id, truth);
  };
  changes = new Changes(orders, (id, status) => sent.push([id, status]), fetchOrder);
  changes.addEventListener("refused", ({ detail }) => refused.push(detail.id));
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

test("a step shows before it is true, and stays when it is", () => {
  assert.ok(changes.take(100, "fired"));
  assert.equal(shown(100), "fired");
  assert.equal(orders.get(100).status, "received");
  assert.deepEqual(sent, [[100, "fired"]]);
  hear(100, "fired");
  mock.timers.tick(60_000);
  assert.equal(shown(100), "fired");
  assert.deepEqual(refused, []);
});

test("steps follow each other without waiting", () => {
  changes.take(100, "fired");
  changes.take(100, "fulfilled");
  assert.deepEqual(sent, [[100, "fired"], [100, "fulfilled"]]);
  hear(100, "fired");
  assert.equal(shown(100), "fulfilled", "the first has come true, the second is on its way");
  hear(100, "fulfilled");
  assert.equal(shown(100), "fulfilled");
});

test("impossible steps are not asked for", () => {
  assert.ok(!changes.take(100, "fulfilled"));
  assert.ok(!changes.take(99, "fired"));
  changes.take(100, "fired");
  assert.ok(!changes.take(100, "fired"));
  assert.deepEqual(sent, [[100, "fired"]]);
});

test("a refused step goes back to what is true", async () => {
  changes.take(100, "fired");
  truth = "received";
  await changes.refuse(100, "fired", "no");
  assert.equal(shown(100), "received");
  assert.deepEqual(refused, [100]);
});

test("who loses a race ends where the winner is, whatever is heard first", async () => {
  for (const newsFirst of [true, false]) {
    const id = newsFirst ? 100 : 101;
    changes.take(id, "fired");
    truth = "cancelled";
    if (newsFirst) hear(id, "cancelled");
    await changes.refuse(id, "fired", `order ${id} is cancelled`);
    assert.equal(shown(id), "cancelled");
  }
  assert.deepEqual([...new Set(refused)], [100, 101]);
});

test("who wished for what another did is not told off", async () => {
  for (const newsFirst of [true, false]) {
    const id = newsFirst ? 100 : 101;
    changes.take(id, "fired");
    truth = "fired";
    if (newsFirst) hear(id, "fired");
    await changes.refuse(id, "fired", `order ${id} is fired: it cannot become fired`);
    assert.equal(shown(id), "fired");
  }
  assert.deepEqual(refused, []);
});

test("a step that another took leaves the next one on its way", async () => {
  for (const newsFirst of [true, false]) {
    const id = newsFirst ? 100 : 101;
    changes.take(id, "fired");
    changes.take(id, "fulfilled");
    truth = "fired";
    if (newsFirst) hear(id, "fired");
    await changes.refuse(id, "fired", `order ${id} is fired: it cannot become fired`);
    assert.equal(shown(id), "fulfilled");
    hear(id, "fulfilled");
  }
  assert.deepEqual(refused, []);
});

test("a step that cannot be asked for goes back at once", async () => {
  changes.take(100, "fired");
  changes.fail(100, "the kitchen cannot be reached");
  assert.equal(shown(100), "received");
  assert.deepEqual(refused, [100]);
  // Unless it was done, and only the answer was lost.
  changes.take(101, "fired");
  truth = "fired";
  await changes.fail(101, "the kitchen cannot be reached");
  assert.equal(shown(101), "fired");
});

test("who loses a race is told, even when the refusal is lost", () => {
  changes.take(100, "fired");
  changes.take(100, "fulfilled");
  hear(100, "fired");
  assert.deepEqual(refused, []);
  hear(100, "cancelled");
  assert.equal(shown(100), "cancelled");
  assert.deepEqual(refused, [100]);
});

test("a step of which nothing is heard is looked into", async () => {
  changes.take(100, "fired");
  truth = "fired";
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "fired");
  assert.deepEqual(refused, [], "the answer was lost, not the step");

  changes.take(101, "fired");
  truth = "received";
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(101), "received");
  assert.deepEqual(refused, [101]);
});

test("a step that is taken while an earlier one is looked into waits its own time", async () => {
  changes.take(100, "fired");
  truth = "received";
  mock.timers.tick(5_000);
  changes.take(100, "fulfilled");
  await settled();
  assert.equal(shown(100), "fulfilled");
  assert.deepEqual(refused, []);
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "received");
  assert.deepEqual(refused, [100]);
});

test("with no service at all it goes back", async () => {
  changes.take(100, "fired");
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "received");
  assert.deepEqual(refused, [100]);
});

test("an order that is no longer there takes its steps along", () => {
  changes.take(100, "fired");
  orders.limit = 1;
  changes.settle();
  mock.timers.tick(60_000);
  assert.deepEqual(refused, []);
});
