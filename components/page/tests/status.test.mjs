// The status line: since when.

import assert from "node:assert/strict";
import { test } from "node:test";

import { timeOf } from "../../../static/status.js";

test("a time of today needs no date, and one of another day does", () => {
  const then = new Date(2026, 4, 6, 18, 42);
  const today = timeOf(then, new Date(2026, 4, 6, 23, 59));
  assert.match(today, /42/);
  for (const now of [new Date(2026, 4, 7, 0, 1), new Date(2026, 5, 6, 18, 42), new Date(2027, 4, 6, 18, 42)]) {
    const earlier = timeOf(then, now);
    assert.match(earlier, /6/);
    assert.match(earlier, /42/);
    assert.notEqual(earlier, today);
  }
});
