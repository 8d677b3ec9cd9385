// The order service over HTTP, as the page asks it.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { exchange, ordersAfter } from "../../../static/api.js";
import { clock } from "../../../static/clock.js";
import { order, settled } from "./support.mjs";

let asked;
/** Answers the oldest question that has none. */
let answers;

const answer = (status, body, type = "application/json", headers = {}) =>
  answers.shift()(new Response(body, { status, headers: { "Content-Type": type, ...headers } }));
const change = (id, status) => exchange({ event: "order-status", detail: { id, status } });

beforeEach(() => {
  asked = [];
  answers = [];
  mock.method(globalThis, "fetch", (url, { body }) => {
    asked.push(body ? `${url} ${body}` : url);
    return new Promise((resolve) => answers.push(resolve));
  });
});

afterEach(() => mock.restoreAll());

test("two steps of one order are asked for one after the other", async () => {
  const first = change(100, "fired");
  const second = change(100, "fulfilled");
  const other = change(101, "fired");
  await settled();
  const at = (id, status) => `/api/orders/${id}/status {"status":"${status}"}`;
  assert.deepEqual(asked, [at(100, "fired"), at(101, "fired")]);
  answer(200, JSON.stringify(order(100, "fired")));
  assert.deepEqual(await first, [{ event: "order-updated", detail: { order: order(100, "fired") } }]);
  await settled();
  assert.equal(asked.at(-1), at(100, "fulfilled"));
  answer(200, JSON.stringify(order(101, "fired")));
  answer(200, JSON.stringify(order(100, "fulfilled")));
  await Promise.all([second, other]);
});

test("a step that fails does not stop the next one", async () => {
  globalThis.fetch.mock.mockImplementationOnce(async () => {
    throw new Error("away");
  });
  const first = change(100, "fired");
  const second = change(100, "cancelled");
  await assert.rejects(first, /away/);
  await settled();
  answer(409, "order 100 is fulfilled\n", "text/plain; charset=utf-8");
  const [{ detail }] = await second;
  assert.deepEqual(detail, { id: 100, status: "cancelled", message: "order 100 is fulfilled" });
});

test("only text is a reason", async () => {
  for (const [body, type] of [["<!doctype html>", "text/html"], ["{}", "application/json"], ["", "text/plain"]]) {
    const step = change(100, "fired");
    await settled();
    answer(502, body, type);
    const [{ detail }] = await step;
    assert.equal(detail.message, "the kitchen answered 502");
  }
});

test("answers tell the time", async () => {
  const asking = ordersAfter(99);
  const there = Date.now() + 3_600_000;
  answer(200, '{"orders":[]}', "application/json", { Date: new Date(there).toUTCString() });
  assert.deepEqual(await asking, []);
  assert.ok(Math.abs(clock.now() - there) < 5_000);
  assert.deepEqual(asked, ["/api/orders?after=99"]);
});
