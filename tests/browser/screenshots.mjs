// Takes the README's screenshots: node tests/browser/screenshots.mjs URL
//
// URL is a host that has run for two minutes with an order every 7 to 9 s, so that there
// are tickets of all ages. The script changes the status of some of them.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

import { launch } from "./browser.mjs";
import { open, shownAs, shownIds, ticket } from "./page.mjs";

const DOCS = fileURLToPath(new URL("../../docs/", import.meta.url));
/** A whole number of tickets wide. */
const WIDE = { viewport: { width: 1336, height: 752 } };
const PHONE = { viewport: { width: 360, height: 700 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

const FIRED = [".advance", "fired"];
const FULFILLED = [".advance", "fulfilled"];
const CANCELLED = [".cancel", "cancelled"];
/** The changes of each ticket, the newest last. */
const STEPS = [[], [], [FIRED, FULFILLED], [FIRED], [CANCELLED], []];

const [url] = process.argv.slice(2);
const browser = await launch();
try {
  for (const [name, options] of [
    ["wide", { ...WIDE, colorScheme: "light" }],
    ["dark", { ...WIDE, colorScheme: "dark" }],
    ["phone", { ...PHONE, colorScheme: "dark" }],
  ]) {
    const context = await browser.newContext({ ...options, reducedMotion: "reduce" });
    const page = await context.newPage();
    await open(page, url);
    const ids = await shownIds(page);
    for (const [index, steps] of STEPS.entries()) {
      const id = ids.at(index - STEPS.length);
      for (const [button, status] of name === "wide" ? steps : []) {
        await ticket(page, id).locator(button).evaluate((it) => it.click());
        await shownAs(page, id, status);
      }
    }
    await page.evaluate(() => document.fonts.ready);
    const path = `${DOCS}${name}.png`;
    await page.screenshot({ path, animations: "disabled" });
    await context.close();
    // Fewer colours look the same at a third of the size. pngquant is a Debian package.
    execFileSync("pngquant", ["--force", "--speed=1", "--output", path, "100", path]);
  }
} finally {
  await browser.close();
}
