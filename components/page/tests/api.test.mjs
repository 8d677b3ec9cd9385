// The requests to the order service.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { fetchOrdersAfter, sendOverHttp } from "../../../static/api.js";
import { clock } from "../../../static/clock.js";
import { order, settled } from "./support.mjs";

let requests;
/** Resolve the pending requests, oldest first. */
let pending;

const respond = (status, body, type = "application/json", headers = {}) =>
  pending.shift()(new Response(body, { status, headers: { "Content-Type": type, ...headers } }));
const change = (id, status) => sendOverHttp({ event: "order-status", detail: { id, status } });

beforeEach(() => {
  requests = [];
  pending = [];
  mock.method(globalThis, "fetch", (url, { body }) => {
    requests.push(body ? `${url} ${body}` : url);
    return new Promise((resolve) => pending.push(resolve));
  });
});

afterEach(() => mock.restoreAll());

test("changes of the same order are sent one after the other", async () => {
  const first = change(100, "fired");
  const second = change(100, "fulfilled");
  const other = change(101, "fired");
  await settled();
  const at = (id, status) => `/api/orders/${id}/status {"status":"${status}"}`;
  assert.deepEqual(requests, [at(100, "fired"), at(101, "fired")]);
  respond(200, JSON.stringify(order(100, "fired")));
  assert.deepEqual(await first, [{ event: "order-updated", detail: { order: order(100, "fired") } }]);
  await settled();
  assert.equal(requests.at(-1), at(100, "fulfilled"));
  respond(200, JSON.stringify(order(101, "fired")));
  respond(200, JSON.stringify(order(100, "fulfilled")));
  await Promise.all([second, other]);
});

test("a failed change does not stop the next one", async () => {
  globalThis.fetch.mock.mockImplementationOnce(async () => {
    throw new Error("offline");
  });
  const first = change(100, "fired");
  const second = change(100, "cancelled");
  await assert.rejects(first, /offline/);
  await settled();
  respond(409, "order 100 is fulfilled\n", "text/plain; charset=utf-8");
  const [{ detail }] = await second;
  assert.deepEqual(detail, { id: 100, status: "cancelled", message: "order 100 is fulfilled" });
});

test("only a plain-text body is used as the error message", async () => {
  for (const [body, type] of [["<!doctype html>", "text/html"], ["{}", "application/json"], ["", "text/plain"]]) {
    const result = change(100, "fired");
    await settled();
    respond(502, body, type);
    const [{ detail }] = await result;
    assert.equal(detail.message, "the kitchen responded with status 502");
  }
});

test("responses set the clock", async () => {
  const orders = fetchOrdersAfter(99);
  const serviceTime = Date.now() + 3_600_000;
  respond(200, '{"orders":[]}', "application/json", { Date: new Date(serviceTime).toUTCString() });
  assert.deepEqual(await orders, []);
  assert.ok(Math.abs(clock.now() - serviceTime) < 5_000);
  assert.deepEqual(requests, ["/api/orders?after=99"]);
});
