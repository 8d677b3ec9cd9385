// Delays: exponential, with full jitter, bounded.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "../../../static/connection.js";

const ceilings = (backoff, count) => Array.from({ length: count }, () => backoff.next());

test("the ceiling doubles from half a second to thirty", () => {
  const backoff = new Backoff({ random: () => 1 });
  const expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
  assert.deepEqual(ceilings(backoff, 9), expected);
  backoff.reset();
  assert.equal(backoff.next(), 500);
});

test("the jitter is full", () => {
  const draws = [0, 0.25, 0.999];
  const backoff = new Backoff({ first: 1000, most: 1000, random: () => draws.shift() });
  assert.deepEqual(ceilings(backoff, 3), [0, 250, 999]);
});

test("a night of tries is still bounded", () => {
  const backoff = new Backoff();
  assert.ok(ceilings(backoff, 10_000).every((delay) => delay >= 0 && delay <= 30_000));
});
