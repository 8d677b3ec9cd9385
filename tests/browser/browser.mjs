// A real Chromium, and pages in it that remember what went wrong.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const ARTIFACTS = fileURLToPath(new URL("../artifacts/", import.meta.url));

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
 * When `use` fails, tests/artifacts/NAME.png shows the page as it was.
 */
export async function withPage(browser, name, options, use) {
  const context = await browser.newContext(options);
  try {
    const page = await context.newPage();
    const problems = [];
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
    try {
      await use(page, problems);
    } catch (error) {
      const path = `${ARTIFACTS}${name}.png`;
      await mkdir(ARTIFACTS, { recursive: true });
      await page.screenshot({ path }).then(
        () => console.error(`the page as it was: ${path}`),
        (reason) => console.error(`no screenshot: ${reason.message}`),
      );
      throw error;
    }
  } finally {
    await context.close();
  }
}
