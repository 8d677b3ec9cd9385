// A real Chromium, and pages in it that remember what went wrong.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ARTIFACTS = fileURLToPath(new URL("../../target/screenshots/", import.meta.url));

/** Starts Chromium with a profile of its own; another one can be named in CHROMIUM. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
    ],
  });
}

/**
 * Runs `use(page, problems)` in a new page of a fresh profile. `problems` holds
 * what a reader would find in the browser's console, and grows as it comes up.
 * When `use` fails, target/screenshots/NAME.png shows the page as it was.
 */
export function withPage(browser, name, options, use) {
  return withPages(browser, name, 1, options, ([page], problems) => use(page, problems));
}

/** The same with `count` pages, each with a profile of its own. */
export async function withPages(browser, name, count, options, use) {
  const contexts = [];
  try {
    const pages = [];
    const problems = [];
    for (let index = 0; index < count; index += 1) {
      const context = await browser.newContext(options);
      contexts.push(context);
      pages.push(await context.newPage());
      watch(pages[index], problems, options);
    }
    try {
      await use(pages, problems);
    } catch (error) {
      for (const [index, page] of pages.entries()) await keep(page, count > 1 ? `${name}-${index}` : name);
      throw error;
    }
  } finally {
    for (const context of contexts) await context.close();
  }
}

/** Adds to `problems` what goes wrong in a page. */
function watch(page, problems, options) {
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => {
    // Without JavaScript, Chromium refuses scripts before it asks for them.
    if (options.javaScriptEnabled === false && request.resourceType() === "script") return;
    problems.push(`${request.url()}: ${request.failure()?.errorText}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) problems.push(`${response.url()}: ${response.status()}`);
  });
}

async function keep(page, name) {
  const path = `${ARTIFACTS}${name}.png`;
  await mkdir(ARTIFACTS, { recursive: true });
  await page.screenshot({ path }).then(
    () => console.error(`the page as it was: ${path}`),
    (reason) => console.error(`no screenshot: ${reason.message}`),
  );
}
