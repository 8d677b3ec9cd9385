// The times in the status line.

import assert from "node:assert/strict";
import { test } from "node:test";

import { formatTime } from "../../../static/status.js";

test("only a time of another day has a date", () => {
  const time = new Date(2026, 4, 6, 18, 42);
  const today = formatTime(time, new Date(2026, 4, 6, 23, 59));
  assert.match(today, /42/);
  for (const now of [new Date(2026, 4, 7, 0, 1), new Date(2026, 5, 6, 18, 42), new Date(2027, 4, 6, 18, 42)]) {
    const earlier = formatTime(time, now);
    assert.match(earlier, /6/);
    assert.match(earlier, /42/);
    assert.notEqual(earlier, today);
  }
});
