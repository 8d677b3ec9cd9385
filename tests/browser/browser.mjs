// A real Chromium, and pages in it that remember what went wrong.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ARTIFACTS = fileURLToPath(new URL("../../target/screenshots/", import.meta.url));

/** How long, in ms, a test may take on a busy machine. */
const PATIENCE = 170_000;

/**
 * Starts Chromium, with more arguments if there are any, and a profile of its own;
 * another one can be named in CHROMIUM.
 */
export function launch(...more) {
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
      ...more,
    ],
  });
}

/**
 * Runs `use(page, problems, later)` in a new page of a fresh profile. `problems` holds
 * what a reader would find in the browser's console, and grows as it comes up. What
 * `later` is given is done when it is over, the last first.
 *
 * When `use` fails or takes too long, target/screenshots/NAME.png, which the error
 * names, shows the page as it was: before anything that it stands on is stopped.
 */
export function withPage(browser, name, options, use) {
  return withPages(browser, name, 1, options, ([page], problems, later) => use(page, problems, later));
}

/** The same with `count` pages, each with a profile of its own. */
export async function withPages(browser, name, count, options, use) {
  const contexts = [];
  const ends = [];
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
      await inTime(use(pages, problems, (end) => ends.push(end)));
    } catch (cause) {
      const kept = [];
      for (const [index, page] of pages.entries()) kept.push(await keep(page, count > 1 ? `${name}-${index}` : name));
      throw new Error(`${cause.message}\nThe page as it was: ${kept.join(", ")}`, { cause });
    }
  } finally {
    try {
      for (const end of ends.reverse()) await end();
    } finally {
      for (const context of contexts) await context.close();
    }
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

async function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${PATIENCE} ms`)), PATIENCE);
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Takes a picture, and returns its path, or why there is none. */
async function keep(page, name) {
  const path = `${ARTIFACTS}${name}.png`;
  await mkdir(ARTIFACTS, { recursive: true });
  return page.screenshot({ path }).then(
    () => path,
    (reason) => `no picture, ${reason.message}`,
  );
}
