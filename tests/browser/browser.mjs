// Runs tests in Chromium, and records the problems of their pages.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { trustArgument } from "./tls.mjs";

const ARTIFACTS = fileURLToPath(new URL("../../target/screenshots/", import.meta.url));

const TEST_TIMEOUT_MS = 170_000;

/** Starts Chromium, or the browser in CHROMIUM, with a new profile and additional arguments. */
export async function launch(...args) {
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
      await trustArgument(),
      ...args,
    ],
  });
}

/**
 * Runs `use(page, problems, defer)` in a new page of a fresh profile. `problems` collects
 * console errors and warnings, uncaught errors, and failed requests. `defer` registers
 * clean-up functions, which run afterwards in reverse order.
 *
 * If `use` fails or times out, this saves a screenshot to target/screenshots/NAME.png
 * before the clean-up, and names it in the error.
 */
export function withPage(browser, name, options, use) {
  return withPages(browser, name, 1, options, ([page], problems, defer) => use(page, problems, defer));
}

/** Like `withPage`, with `count` pages, each with a profile of its own. */
export async function withPages(browser, name, count, options, use) {
  const contexts = [];
  const deferred = [];
  try {
    const pages = [];
    const problems = [];
    for (let index = 0; index < count; index += 1) {
      const context = await browser.newContext(options);
      contexts.push(context);
      pages.push(await context.newPage());
      recordProblems(pages[index], problems, options);
    }
    try {
      await withTimeout(use(pages, problems, (callback) => deferred.push(callback)));
    } catch (cause) {
      const screenshots = [];
      for (const [index, page] of pages.entries()) screenshots.push(await takeScreenshot(page, count > 1 ? `${name}-${index}` : name));
      throw new Error(`${cause.message}\nScreenshot: ${screenshots.join(", ")}`, { cause });
    }
  } finally {
    try {
      for (const callback of deferred.reverse()) await callback();
    } finally {
      for (const context of contexts) await context.close();
    }
  }
}

/** Adds the problems of a page to `problems`. */
function recordProblems(page, problems, options) {
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => {
    // Without JavaScript, Chromium blocks scripts before requesting them.
    if (options.javaScriptEnabled === false && request.resourceType() === "script") return;
    problems.push(`${request.url()}: ${request.failure()?.errorText}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) problems.push(`${response.url()}: ${response.status()}`);
  });
}

async function withTimeout(promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${TEST_TIMEOUT_MS} ms`)), TEST_TIMEOUT_MS);
  });
  try {
    await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Takes a screenshot, and returns its path, or why that failed. */
async function takeScreenshot(page, name) {
  const path = `${ARTIFACTS}${name}.png`;
  await mkdir(ARTIFACTS, { recursive: true });
  return page.screenshot({ path }).then(
    () => path,
    (error) => `failed, ${error.message}`,
  );
}
