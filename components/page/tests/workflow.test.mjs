// Which status may follow which, as components/orders/src/order.rs has it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { canBecome, isDone, isLater, onwards } from "../../../static/changes.js";

const ALL = ["received", "fired", "fulfilled", "cancelled"];

test("the steps are those of the component", async () => {
  const steps = ALL.map((from) => ALL.map((to) => canBecome(from, to)));
  const source = await readFile(new URL("../../orders/src/order.rs", import.meta.url), "utf8");
  const table = /steps,\s*(\[[^;]*?\])\s*\);/.exec(source);
  assert.deepEqual(steps, JSON.parse(table[1].replaceAll(/,(\s*\])/g, "$1")));
});

test("onwards leads to the end", () => {
  assert.deepEqual(ALL.map(onwards), ["fired", "fulfilled", null, null]);
  assert.deepEqual(ALL.map(isDone), [false, false, true, true]);
});

test("each step leads to a later status, and none to an earlier one", () => {
  for (const from of ALL) {
    for (const to of ALL) {
      if (canBecome(from, to)) assert.ok(isLater(to, from) && !isLater(from, to), `${from}, ${to}`);
    }
    assert.ok(!isLater(from, from));
  }
});

test("a status that is not known leads nowhere", () => {
  assert.equal(onwards("eaten"), null);
  assert.equal(canBecome("eaten", "fired"), false);
  assert.equal(canBecome("received", "eaten"), false);
});
