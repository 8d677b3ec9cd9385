// How long a guest has waited.

import assert from "node:assert/strict";
import { test } from "node:test";

import { readable, stage } from "../../../static/age.js";

const MINUTE = 60_000;

test("ages as they are read", () => {
  const ages = [-5, 0, 999, 1000, 59_999, MINUTE, 12 * MINUTE + 5000, 60 * MINUTE, 125 * MINUTE];
  assert.deepEqual(ages.map(readable), ["0:00", "0:00", "0:00", "0:01", "0:59", "1:00", "12:05", "1 h 00", "2 h 05"]);
});

test("a ticket gets older", () => {
  const ages = [-MINUTE, 0, 44_999, 45_000, 2 * MINUTE - 1, 2 * MINUTE, 60 * MINUTE];
  assert.deepEqual(ages.map(stage), ["fresh", "fresh", "fresh", "aging", "aging", "late", "late"]);
});
