// Pending status changes: they show at once, and are reverted if they fail.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { PendingChanges } from "../../../static/changes.js";
import { Orders } from "../../../static/orders.js";
import { order, settled } from "./support.mjs";

let orders;
let changes;
let sent;
let rejected;
/** The status of any order at the service; null if it does not respond. */
let actual;

const shown = (id) => changes.apply(orders.get(id)).status;

/** Receives an update from the service. */
function receive(id, status) {
  orders.update(order(id, status));
  changes.reconcile();
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(console, "warn", () => {});
  orders = new Orders(12);
  orders.merge([order(100), order(101)]);
  sent = [];
  rejected = [];
  actual = null;
  const fetchOrder = async (id) => {
    if (actual === null) throw new Error("no response");
    return order(id, actual);
  };
  changes = new PendingChanges(orders, (id, status) => sent.push([id, status]), fetchOrder);
  changes.addEventListener("rejected", ({ detail }) => rejected.push(detail.id));
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

test("a change shows before and after its confirmation", () => {
  assert.ok(changes.request(100, "fired"));
  assert.equal(shown(100), "fired");
  assert.equal(orders.get(100).status, "received");
  assert.deepEqual(sent, [[100, "fired"]]);
  receive(100, "fired");
  mock.timers.tick(60_000);
  assert.equal(shown(100), "fired");
  assert.deepEqual(rejected, []);
});

test("changes do not wait for the confirmation of earlier ones", () => {
  changes.request(100, "fired");
  changes.request(100, "fulfilled");
  assert.deepEqual(sent, [[100, "fired"], [100, "fulfilled"]]);
  receive(100, "fired");
  assert.equal(shown(100), "fulfilled", "the first is confirmed, the second is pending");
  receive(100, "fulfilled");
  assert.equal(shown(100), "fulfilled");
});

test("changes that are not allowed are not sent", () => {
  assert.ok(!changes.request(100, "fulfilled"));
  assert.ok(!changes.request(99, "fired"));
  changes.request(100, "fired");
  assert.ok(!changes.request(100, "fired"));
  assert.deepEqual(sent, [[100, "fired"]]);
});

test("a rejected change is reverted", async () => {
  changes.request(100, "fired");
  actual = "received";
  await changes.reject(100, "fired", "no");
  assert.equal(shown(100), "received");
  assert.deepEqual(rejected, [100]);
});

test("a conflicting change of another client wins, whichever message comes first", async () => {
  for (const updateFirst of [true, false]) {
    const id = updateFirst ? 100 : 101;
    changes.request(id, "fired");
    actual = "cancelled";
    if (updateFirst) receive(id, "cancelled");
    await changes.reject(id, "fired", `order ${id} is cancelled`);
    assert.equal(shown(id), "cancelled");
  }
  assert.deepEqual([...new Set(rejected)], [100, 101]);
});

test("the same change by another client causes no error", async () => {
  for (const updateFirst of [true, false]) {
    const id = updateFirst ? 100 : 101;
    changes.request(id, "fired");
    actual = "fired";
    if (updateFirst) receive(id, "fired");
    await changes.reject(id, "fired", `order ${id} is fired: it cannot become fired`);
    assert.equal(shown(id), "fired");
  }
  assert.deepEqual(rejected, []);
});

test("a first change made by another client leaves the second one pending", async () => {
  for (const updateFirst of [true, false]) {
    const id = updateFirst ? 100 : 101;
    changes.request(id, "fired");
    changes.request(id, "fulfilled");
    actual = "fired";
    if (updateFirst) receive(id, "fired");
    await changes.reject(id, "fired", `order ${id} is fired: it cannot become fired`);
    assert.equal(shown(id), "fulfilled");
    receive(id, "fulfilled");
  }
  assert.deepEqual(rejected, []);
});

test("a change that cannot be sent is reverted at once", async () => {
  changes.request(100, "fired");
  changes.fail(100, "the kitchen cannot be reached");
  assert.equal(shown(100), "received");
  assert.deepEqual(rejected, [100]);
  // The service made this one, and only the response was lost.
  changes.request(101, "fired");
  actual = "fired";
  await changes.fail(101, "the kitchen cannot be reached");
  assert.equal(shown(101), "fired");
});

test("a conflicting change is reported even if the rejection is lost", () => {
  changes.request(100, "fired");
  changes.request(100, "fulfilled");
  receive(100, "fired");
  assert.deepEqual(rejected, []);
  receive(100, "cancelled");
  assert.equal(shown(100), "cancelled");
  assert.deepEqual(rejected, [100]);
});

test("an unconfirmed change is checked after a timeout", async () => {
  changes.request(100, "fired");
  actual = "fired";
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "fired");
  assert.deepEqual(rejected, [], "only the confirmation was lost");

  changes.request(101, "fired");
  actual = "received";
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(101), "received");
  assert.deepEqual(rejected, [101]);
});

test("a change during the check of an earlier one has a timeout of its own", async () => {
  changes.request(100, "fired");
  actual = "received";
  mock.timers.tick(5_000);
  changes.request(100, "fulfilled");
  await settled();
  assert.equal(shown(100), "fulfilled");
  assert.deepEqual(rejected, []);
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "received");
  assert.deepEqual(rejected, [100]);
});

test("a change is reverted if the service does not respond", async () => {
  changes.request(100, "fired");
  mock.timers.tick(5_000);
  await settled();
  assert.equal(shown(100), "received");
  assert.deepEqual(rejected, [100]);
});

test("pending changes of a removed order are dropped", () => {
  changes.request(100, "fired");
  orders.limit = 1;
  changes.reconcile();
  mock.timers.tick(60_000);
  assert.deepEqual(rejected, []);
});
