// Checks the accessibility of a page with axe.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** Runs axe, without a script element, which the policy refuses. Returns colour contrasts that it could not check. */
export async function assertAccessible(page, options) {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(await readFile(AXE, "utf8"));
  const results = await page.evaluate((options) => axe.run(document, options), options);
  const format = ({ id, help, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${help}\n${html.slice(0, 200)}\n${failureSummary}`);
  assert.deepEqual(results.violations.flatMap(format), []);
  const unchecked = results.incomplete.filter(({ id }) => id === "color-contrast").flatMap(format);
  // Arrows have the same colours as the text.
  return unchecked.filter((text) => !text.includes("only non-text characters"));
}
