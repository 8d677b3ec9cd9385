// The workflow of statuses, which must match components/orders/src/order.rs.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { canChange, isFinal, isLater, nextStatus } from "../../../static/changes.js";

const ALL = ["received", "fired", "fulfilled", "cancelled"];

test("the allowed changes match the component", async () => {
  const allowed = ALL.map((from) => ALL.map((to) => canChange(from, to)));
  const source = await readFile(new URL("../../orders/src/order.rs", import.meta.url), "utf8");
  const table = /allowed,\s*(\[[^;]*?\])\s*\);/.exec(source);
  assert.deepEqual(allowed, JSON.parse(table[1].replaceAll(/,(\s*\])/g, "$1")));
});

test("the usual changes lead to a final status", () => {
  assert.deepEqual(ALL.map(nextStatus), ["fired", "fulfilled", null, null]);
  assert.deepEqual(ALL.map(isFinal), [false, false, true, true]);
});

test("changes lead to later statuses only", () => {
  for (const from of ALL) {
    for (const to of ALL) {
      if (canChange(from, to)) assert.ok(isLater(to, from) && !isLater(from, to), `${from}, ${to}`);
    }
    assert.ok(!isLater(from, from));
  }
});

test("an unknown status allows no changes", () => {
  assert.equal(nextStatus("eaten"), null);
  assert.equal(canChange("eaten", "fired"), false);
  assert.equal(canChange("received", "eaten"), false);
});
