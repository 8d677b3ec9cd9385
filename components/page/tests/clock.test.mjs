// The service's time, and the ages of tickets.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Clock, ageStage, formatAge } from "../../../static/clock.js";

const MINUTE = 60_000;
let clock;

/** Receives a response with the service's time, `duration` ms after the request. */
function receive(serviceTime, duration = 0) {
  const requestedAt = Date.now();
  mock.timers.tick(duration);
  clock.sync(new Date(serviceTime).toUTCString(), requestedAt);
}

const offset = () => clock.now() - Date.now();

beforeEach(() => {
  mock.timers.enable({ apis: ["Date"], now: Date.UTC(2026, 0, 2) });
  clock = new Clock();
});

afterEach(() => mock.timers.reset());

test("a clock within the header's precision is not adjusted", () => {
  for (const [difference, duration] of [[0, 0], [0, 500], [300, 500], [2_000, 2_500], [1_999, 2_000]]) {
    receive(Date.now() + difference, duration);
    assert.equal(offset(), 0, `${difference} ${duration}`);
  }
});

test("a wrong clock is corrected", () => {
  for (const difference of [-10 * MINUTE, 10 * MINUTE, 0]) {
    receive(Date.now() + difference, 400);
    assert.ok(Math.abs(offset() - difference) <= 1_000, `${offset()} for ${difference}`);
    // The next response does not change it again.
    const before = offset();
    receive(Date.now() + difference, 300);
    assert.equal(offset(), before);
  }
});

test("a response without a valid date is ignored", () => {
  for (const date of [null, "", "yesterday"]) {
    clock.sync(date, Date.now());
    assert.equal(offset(), 0);
  }
});

test("ages are formatted as minutes or hours", () => {
  const ages = [-5, 0, 999, 1000, 59_999, MINUTE, 12 * MINUTE + 5000, 60 * MINUTE, 125 * MINUTE];
  assert.deepEqual(ages.map(formatAge), ["0:00", "0:00", "0:00", "0:01", "0:59", "1:00", "12:05", "1 h 00", "2 h 05"]);
});

test("stages follow from ages", () => {
  const ages = [-MINUTE, 0, 14_999, 15_000, 29_999, 30_000, 60 * MINUTE];
  assert.deepEqual(ages.map(ageStage), ["fresh", "fresh", "fresh", "aging", "aging", "late", "late"]);
});

test("all stages occur at the rate of orders in spin.toml", async () => {
  const manifest = await readFile(new URL("../../../spin.toml", import.meta.url), "utf8");
  const [, first, last] = /every = "(\d+)s\.\.(\d+)s"/.exec(manifest);
  // The average age of the oldest of twelve.
  const oldest = (12 * (Number(first) + Number(last)) * 1000) / 2;
  assert.equal(ageStage(oldest / 2), "aging");
  assert.equal(ageStage(oldest * 0.75), "late");
});
