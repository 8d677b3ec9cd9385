// Takes the README's pictures: node tests/browser/screenshots.mjs URL
//
// URL is a host that has run for three minutes with an order every 22 to 30 s, so
// that tickets of all ages hang there. Some are moved on for the picture.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

import { launch } from "./browser.mjs";
import { open, shownIds, ticket } from "./rail.mjs";

const DOCS = fileURLToPath(new URL("../../docs/", import.meta.url));
const WIDE = { viewport: { width: 1440, height: 810 } };
const PHONE = { viewport: { width: 360, height: 700 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

/** The newest ticket last: what is done to each before. */
const STEPS = [[".onwards"], [".cancel"], [".onwards", ".onwards"], [], [".onwards"], []];

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
    for (const [index, buttons] of STEPS.entries()) {
      for (const button of buttons) {
        if (name === "wide") await ticket(page, ids.at(index - STEPS.length)).locator(button).evaluate((it) => it.click());
      }
    }
    await page.evaluate(() => document.fonts.ready);
    const path = `${DOCS}${name}.png`;
    await page.screenshot({ path, animations: "disabled" });
    await context.close();
    // Fewer colours look the same and weigh a third: Debian's package pngquant.
    execFileSync("pngquant", ["--force", "--speed=1", "--output", path, "100", path]);
  }
} finally {
  await browser.close();
}
