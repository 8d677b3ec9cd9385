// The delays between attempts to connect.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "./support.mjs";

const delays = (backoff, count) => Array.from({ length: count }, () => backoff.next());

test("the ceiling doubles from 0.5 s to 30 s", () => {
  const backoff = new Backoff({ random: () => 1 });
  const expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
  assert.deepEqual(delays(backoff, 9), expected);
  backoff.reset();
  assert.equal(backoff.next(), 500);
});

test("delays are spread over the whole range", () => {
  const draws = [0, 0.25, 0.999];
  const backoff = new Backoff({ initial: 1000, max: 1000, random: () => draws.shift() });
  assert.deepEqual(delays(backoff, 3), [0, 250, 999]);
});

test("delays stay bounded after many attempts", () => {
  const backoff = new Backoff();
  assert.ok(delays(backoff, 10_000).every((delay) => delay >= 0 && delay <= 30_000));
});
