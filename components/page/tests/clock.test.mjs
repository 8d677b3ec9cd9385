// The service's time, by what its answers say, and how long a guest has waited.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Clock, readable, stage } from "../../../static/clock.js";

const MINUTE = 60_000;
let clock;

/** An answer that says what time it is there, `took` ms after the question. */
function hear(there, took = 0) {
  const asked = Date.now();
  mock.timers.tick(took);
  clock.hear(new Date(there).toUTCString(), asked);
}

const ahead = () => clock.now() - Date.now();

beforeEach(() => {
  mock.timers.enable({ apis: ["Date"], now: Date.UTC(2026, 0, 2) });
  clock = new Clock();
});

afterEach(() => mock.timers.reset());

test("a clock that is right, as far as can be told, is left alone", () => {
  for (const [off, took] of [[0, 0], [0, 500], [300, 500], [2_000, 2_500], [1_999, 2_000]]) {
    hear(Date.now() + off, took);
    assert.equal(ahead(), 0, `${off} ${took}`);
  }
});

test("one that is wrong is not gone by", () => {
  for (const off of [-10 * MINUTE, 10 * MINUTE, 0]) {
    hear(Date.now() + off, 400);
    assert.ok(Math.abs(ahead() - off) <= 1_000, `${ahead()} for ${off}`);
    // And does not waver with each answer.
    const before = ahead();
    hear(Date.now() + off, 300);
    assert.equal(ahead(), before);
  }
});

test("an answer without a date says nothing", () => {
  for (const date of [null, "", "yesterday"]) {
    clock.hear(date, Date.now());
    assert.equal(ahead(), 0);
  }
});

test("ages as they are read", () => {
  const ages = [-5, 0, 999, 1000, 59_999, MINUTE, 12 * MINUTE + 5000, 60 * MINUTE, 125 * MINUTE];
  assert.deepEqual(ages.map(readable), ["0:00", "0:00", "0:00", "0:01", "0:59", "1:00", "12:05", "1 h 00", "2 h 05"]);
});

test("a ticket gets older", () => {
  const ages = [-MINUTE, 0, 14_999, 15_000, 29_999, 30_000, 60 * MINUTE];
  assert.deepEqual(ages.map(stage), ["fresh", "fresh", "fresh", "aging", "aging", "late", "late"]);
});

test("all stages are seen as often as orders come", async () => {
  const manifest = await readFile(new URL("../../../spin.toml", import.meta.url), "utf8");
  const [, first, last] = /every = "(\d+)s\.\.(\d+)s"/.exec(manifest);
  // On average, the age of the oldest of twelve.
  const oldest = (12 * (Number(first) + Number(last)) * 1000) / 2;
  assert.equal(stage(oldest / 2), "aging");
  assert.equal(stage(oldest * 0.75), "late");
});
