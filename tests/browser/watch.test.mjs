// `--watch`: the page while its files are edited.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { launch, withPage } from "./browser.mjs";
import { Host } from "./host.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const timeout = 120_000;
/** How soon a change must show, on a busy machine. */
const RELOAD_TIMEOUT_MS = 30_000;

/**
 * A fake compiler. It fails if the source contains "mistake", with an error that contains markup.
 * Otherwise it copies the component that the source names.
 */
const COMPILER = `
if grep -q mistake source.rs; then
    printf '\\033[0m\\033[1m\\033[38;5;9merror[E0425]\\033[0m: cannot find <img src=x onerror=globalThis.injected=1>\\n' >&2
    exit 101
fi
cp "$(cat source.rs)" page.new && mv page.new page.wasm
`;

let folder;
let host;
let browser;
/** The original style sheet. */
let style;

const file = (name) => join(folder, name);
const component = (name) => `${ROOT}target/wasm32-wasip2/component/${name}.wasm`;

/** Saves a file as most editors do: by replacing it. */
async function save(name, text) {
  await writeFile(file(`${name}~`), text);
  await rename(file(`${name}~`), file(name));
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "socket-burger-watch-"));
  for (const name of ["static", "client/src"]) await cp(`${ROOT}${name}`, file(name), { recursive: true });
  style = await readFile(file("static/page.css"), "utf8");
  await mkdir(file("state"));
  await save("source.rs", component("page"));
  await save("compiler", COMPILER);
  const manifest = await readFile(`${ROOT}spin.toml`, "utf8");
  const edited = manifest
    .replace('every = "2s..6s"', 'every = "1h"')
    .replace(/source = "target\/[^"]*page.wasm"/, 'source = "page.wasm"')
    .replace(/source = "target\/[^"]*orders.wasm"/, `source = "${component("orders")}"`)
    .replace('"components/build page"', '"sh compiler"')
    .replace('"components/build orders"', '"true"')
    .replace(/"components\/page\/src\/[^"]*"/, '"source.rs"');
  for (const part of ['"1h"', '"page.wasm"', '"sh compiler"', '"source.rs"', component("orders")]) {
    assert.ok(edited.includes(part), `spin.toml has changed: no ${part}`);
  }
  await save("spin.toml", edited);
  host = await start("127.0.0.1:0");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await host?.stop();
  await rm(folder, { recursive: true, force: true });
});

function start(listen) {
  return Host.start({
    stateDir: file("state"),
    from: file("spin.toml"),
    listen,
    options: ["--watch"],
  });
}

/**
 * Defines a test with a page that is open, connected, and marked, so that a reload can be detected.
 * `states` collects what its reload socket receives.
 */
function pageTest(name, use) {
  test(name, { timeout }, async () => {
    try {
      await withPage(browser, name.replaceAll(/\W+/g, "-"), {}, async (page, problems) => {
        const states = await open(page);
        await use(page, problems, states);
      });
    } catch (error) {
      console.error(`host log:\n${host.log}`);
      throw error;
    }
  });
}

/** Opens and marks the page, waits until both sockets are connected, and returns the states that it receives. */
async function open(page) {
  const states = [];
  page.on("websocket", (socket) => {
    if (socket.url().endsWith("/.socket-host/reload")) {
      socket.on("framereceived", ({ payload }) => states.push(JSON.parse(payload)));
    }
  });
  const other = page.waitForEvent("websocket", (socket) => !socket.url().includes(".socket-host"));
  await page.goto(host.url);
  await other;
  await until(() => states.length > 0, "the page is connected");
  await mark(page);
  return states;
}

/** Waits for a condition. */
async function until(condition, what) {
  const deadline = Date.now() + RELOAD_TIMEOUT_MS;
  while (!condition()) {
    assert.ok(Date.now() < deadline, `timed out: ${what}`);
    await setTimeout(20);
  }
}

/** Saves the style sheet with a value of `--edited`. */
async function edit(value) {
  await save("static/page.css", `${style}\n:root { --edited: ${value}; }\n`);
}

/** Waits until a page has applied a value of `--edited`. */
const edited = (page, value) =>
  page.waitForFunction(
    (wanted) => getComputedStyle(document.documentElement).getPropertyValue("--edited").trim() === wanted,
    value,
    { timeout: RELOAD_TIMEOUT_MS },
  );

const mark = (page) => page.evaluate(() => void (globalThis.marked = true));
const isMarked = (page) => page.evaluate(() => globalThis.marked === true);
const reloaded = (page) =>
  page.waitForFunction(() => document.readyState === "complete" && !globalThis.marked, null, { timeout: RELOAD_TIMEOUT_MS });
/**
 * Ignores requests aborted by a reload, and the page's warning about them. A request that
 * fails for another reason is also recorded with that reason.
 */
const isNotAborted = (problem) =>
  !problem.endsWith("net::ERR_ABORTED") && problem !== "failed to fetch orders: TypeError: Failed to fetch";
const overlay = (page) => page.locator("socket-host-problems section");

pageTest("an edited style sheet is applied without a reload", async (page, problems) => {
  const sockets = [];
  page.on("websocket", (socket) => sockets.push(socket.url()));
  for (const value of ["one", "two"]) {
    await edit(value);
    await edited(page, value);
  }
  // The new sheet has replaced the old one.
  await page.waitForFunction(() => document.querySelectorAll("link[rel=stylesheet]").length === 1);
  assert.ok(await isMarked(page), "the page was reloaded");
  assert.deepEqual(sockets, [], "another socket was opened");
  assert.deepEqual(problems, []);
});

pageTest("quick changes of a style sheet are applied without a reload", async (page, problems, states) => {
  let release;
  const released = new Promise((resolve) => (release = resolve));
  // Holds the first new version until there are more.
  await page.route(/\.css/, async (route) => {
    await released;
    await route.continue();
  });
  const requested = page.waitForRequest(/\.css/);
  await edit("three");
  await requested;
  for (const value of ["four", "five"]) {
    const { styles } = states.at(-1);
    await edit(value);
    await until(() => states.at(-1).styles > styles, "another state");
  }
  release();
  await edited(page, "five");
  await page.waitForFunction(() => document.querySelectorAll("link[rel=stylesheet]").length === 1);
  assert.ok(await isMarked(page), "the page was reloaded");
  assert.deepEqual(problems, []);
});

pageTest("another static file reloads the page", async (page, problems) => {
  const original = await readFile(file("static/main.js"), "utf8");
  await save("static/main.js", `${original}\nglobalThis.edited = "new";\n`);
  await page.waitForFunction(() => globalThis.edited === "new", null, { timeout: RELOAD_TIMEOUT_MS });
  assert.equal(await isMarked(page), false);
  await save("static/main.js", original);
  await page.waitForFunction(() => globalThis.edited !== "new", null, { timeout: RELOAD_TIMEOUT_MS });
  assert.deepEqual(problems.filter(isNotAborted), []);
});

pageTest("a compiler error is shown as text over the page until it is fixed", async (page, problems) => {
  await save("source.rs", "mistake");
  await overlay(page).waitFor({ timeout: RELOAD_TIMEOUT_MS });
  const shown = await overlay(page).innerText();
  assert.match(shown, /component page.*sh compiler.*exit status: 101/);
  assert.ok(shown.includes("error[E0425]: cannot find <img src=x onerror=globalThis.injected=1>"), shown);
  const word = overlay(page).locator("span", { hasText: "error[E0425]" });
  assert.deepEqual((await word.getAttribute("class")).split(" ").sort(), ["bold", "red"]);
  assert.equal(await word.evaluate((element) => getComputedStyle(element).color), "rgb(255, 143, 138)");
  assert.equal(await page.locator("img[src=x]").count(), 0, "the error became markup");
  assert.ok(await isMarked(page), "the page was reloaded");
  // It can be dismissed, and a reloaded page shows it again.
  await page.keyboard.press("Escape");
  await overlay(page).waitFor({ state: "detached" });
  await page.reload();
  await overlay(page).waitFor({ timeout: RELOAD_TIMEOUT_MS });
  await mark(page);

  await save("source.rs", component("page"));
  await overlay(page).waitFor({ state: "detached", timeout: RELOAD_TIMEOUT_MS });
  assert.ok(await isMarked(page), "the component is the same as before");
  assert.equal(await page.evaluate(() => globalThis.injected), undefined);
  assert.deepEqual(problems.filter(isNotAborted), []);
});

pageTest("long lines of an error are wrapped", async (page) => {
  const long = `    at ${"x".repeat(500)} ${"word ".repeat(100)}`.trimEnd();
  await save("compiler", `cat output; exit 1`);
  await save("output", `${long}\n${long.replaceAll("x", "/")}\n`);
  await save("source.rs", "mistake");
  await overlay(page).waitFor({ timeout: RELOAD_TIMEOUT_MS });
  for (const width of [360, 1280]) {
    await page.setViewportSize({ width, height: 600 });
    const widths = await overlay(page).evaluate((section) =>
      [section.getRootNode().host, section, ...section.querySelectorAll("h2, pre, p")].map((element) => ({
        name: element.localName,
        scroll: element.scrollWidth,
        client: element.clientWidth,
      })),
    );
    assert.equal(widths.length, 5);
    for (const { name, scroll, client } of widths) {
      assert.ok(client > 0 && scroll <= client, `${name} at ${width}: ${scroll} > ${client}`);
    }
  }
  const shown = await overlay(page).locator("pre").evaluate((pre) => pre.textContent);
  assert.ok(shown.startsWith(`${long}\n`), shown);
  await save("compiler", COMPILER);
  await save("source.rs", component("page"));
  await overlay(page).waitFor({ state: "detached", timeout: RELOAD_TIMEOUT_MS });
});

pageTest("a changed component or manifest reloads the page", async (page) => {
  const code = await readFile(component("page"));
  const at = code.indexOf("New orders will appear here");
  assert.ok(at > 0, "the page has changed");
  code.write("All orders will appear here", at);
  await writeFile(file("other.wasm"), code);
  await save("source.rs", file("other.wasm"));
  await reloaded(page);
  await page.getByText("All orders will appear here").waitFor({ state: "attached", timeout: RELOAD_TIMEOUT_MS });
  await mark(page);
  const manifest = await readFile(file("spin.toml"), "utf8");
  await save("spin.toml", manifest.replace("[component.page]", "[component.page]\nsauce = 1"));
  await overlay(page).waitFor({ timeout: RELOAD_TIMEOUT_MS });
  assert.match(await overlay(page).innerText(), /component\.page\.sauce/);
  assert.ok(await isMarked(page));
  await save("spin.toml", manifest);
  await reloaded(page);
  assert.equal(await overlay(page).count(), 0);
});

pageTest("the page reloads after the host was restarted", async (page, _, states) => {
  const { address } = host;
  await host.stop();
  host = await start(address);
  await reloaded(page);
  // The new page listens to the new host.
  await until(() => states.at(-1).start !== states[0].start, "a state of the new host");
});

pageTest("eight pages listen at the same time", async (page, problems) => {
  // They share a profile, and thus the limit of six connections.
  const pages = [page];
  while (pages.length < 8) {
    const next = await page.context().newPage();
    await open(next);
    pages.push(next);
  }
  for (const one of pages) {
    assert.equal(await one.evaluate(() => document.visibilityState), "visible");
    const status = await one.evaluate(() => fetch("/", { cache: "no-store" }).then(({ status }) => status));
    assert.equal(status, 200);
  }
  await edit("eight");
  for (const one of pages) {
    await edited(one, "eight");
    assert.ok(await isMarked(one), "the page was reloaded");
  }
  assert.deepEqual(problems, []);
});
