// The page while its files are edited: `--watch` in a real browser.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { launch, withPage } from "./browser.mjs";
import { Host } from "./host.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const timeout = 120_000;
/** For a change to show, on a busy machine. */
const SOON = 30_000;

/**
 * A compiler for tests, in place of the page's own: fails when the source says so, with words that
 * would be markup if they were taken for it, and otherwise copies the component.
 */
const COMPILER = `
if grep -q mistake source.rs; then
    printf '\\033[0m\\033[1m\\033[38;5;9merror[E0425]\\033[0m: cannot find <img src=x onerror=globalThis.hurt=1>\\n' >&2
    exit 101
fi
cp "$(cat source.rs)" page.new && mv page.new page.wasm
`;

let folder;
let host;
let browser;

const file = (name) => join(folder, name);
const component = (name) => `${ROOT}target/wasm32-wasip2/component/${name}.wasm`;

/** Saves a file as most editors do: another takes its place. */
async function save(name, text) {
  await writeFile(file(`${name}~`), text);
  await rename(file(`${name}~`), file(name));
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "socket-burger-watch-"));
  await cp(`${ROOT}static`, file("static"), { recursive: true });
  await mkdir(file("state"));
  await save("source.rs", component("page"));
  await save("compiler", COMPILER);
  const manifest = await readFile(`${ROOT}spin.toml`, "utf8");
  const ours = manifest
    .replace('every = "2s..6s"', 'every = "1h"')
    .replace(/source = "target\/[^"]*page.wasm"/, 'source = "page.wasm"')
    .replace(/source = "target\/[^"]*orders.wasm"/, `source = "${component("orders")}"`)
    .replace('"components/build page"', '"sh compiler"')
    .replace('"components/build orders"', '"true"')
    .replace(/"components\/page\/src\/[^"]*"/, '"source.rs"');
  for (const part of ['"1h"', '"page.wasm"', '"sh compiler"', '"source.rs"', component("orders")]) {
    assert.ok(ours.includes(part), `spin.toml has changed: no ${part}`);
  }
  await save("spin.toml", ours);
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

/** A test with a page that is open, connected, and marked, so that a reload shows. */
function pageTest(name, use) {
  test(name, { timeout }, async () => {
    try {
      await withPage(browser, name.replaceAll(/\W+/g, "-"), {}, async (page, problems) => {
        const listens = page.waitForRequest(/\.socket-host\/reload$/);
        await page.goto(host.url);
        await listens;
        await mark(page);
        await use(page, problems);
      });
    } catch (error) {
      console.error(`the host said:\n${host.log}`);
      throw error;
    }
  });
}

const mark = (page) => page.evaluate(() => void (globalThis.marked = true));
const isMarked = (page) => page.evaluate(() => globalThis.marked === true);
const reloaded = (page) =>
  page.waitForFunction(() => document.readyState === "complete" && !globalThis.marked, null, { timeout: SOON });
/** Requests that a reload cuts off are no problem of the page. */
const isNotCutOff = (problem) => !problem.endsWith("net::ERR_ABORTED");
const overlay = (page) => page.locator("socket-host-problems section");

pageTest("an edited style sheet is seen without a reload, and the socket stays", async (page, problems) => {
  const sockets = [];
  page.on("websocket", (socket) => sockets.push(socket.url()));
  const original = await readFile(file("static/page.css"), "utf8");
  for (const value of ["one", "two"]) {
    await save("static/page.css", `${original}\n:root { --tried: ${value}; }\n`);
    await page.waitForFunction(
      (wanted) => getComputedStyle(document.documentElement).getPropertyValue("--tried").trim() === wanted,
      value,
      { timeout: SOON },
    );
  }
  // One sheet has taken the place of one.
  await page.waitForFunction(() => document.querySelectorAll("link[rel=stylesheet]").length === 1);
  assert.ok(await isMarked(page), "the page was reloaded");
  assert.deepEqual(sockets, [], "another socket was opened");
  assert.deepEqual(problems, []);
});

pageTest("another static file reloads the page", async (page, problems) => {
  const original = await readFile(file("static/main.js"), "utf8");
  await save("static/main.js", `${original}\nglobalThis.tried = "new";\n`);
  await page.waitForFunction(() => globalThis.tried === "new", null, { timeout: SOON });
  assert.equal(await isMarked(page), false);
  await save("static/main.js", original);
  await page.waitForFunction(() => globalThis.tried !== "new", null, { timeout: SOON });
  assert.deepEqual(problems.filter(isNotCutOff), []);
});

pageTest("a compiler's error is shown over the page, as text, and goes when it is mended", async (page, problems) => {
  await save("source.rs", "mistake");
  await overlay(page).waitFor({ timeout: SOON });
  const shown = await overlay(page).innerText();
  assert.match(shown, /component page.*sh compiler.*exit status: 101/);
  assert.ok(shown.includes("error[E0425]: cannot find <img src=x onerror=globalThis.hurt=1>"), shown);
  const word = overlay(page).locator("span", { hasText: "error[E0425]" });
  assert.deepEqual((await word.getAttribute("class")).split(" ").sort(), ["bold", "red"]);
  assert.equal(await word.evaluate((element) => getComputedStyle(element).color), "rgb(255, 143, 138)");
  assert.equal(await page.locator("img[src=x]").count(), 0, "it became markup");
  assert.ok(await isMarked(page), "the page was reloaded");
  // It can be put away, and a page that is opened now shows it.
  await page.keyboard.press("Escape");
  await overlay(page).waitFor({ state: "detached" });
  await page.reload();
  await overlay(page).waitFor({ timeout: SOON });
  await mark(page);

  await save("source.rs", component("page"));
  await overlay(page).waitFor({ state: "detached", timeout: SOON });
  assert.ok(await isMarked(page), "the same component was built: nothing is new");
  assert.equal(await page.evaluate(() => globalThis.hurt), undefined);
  assert.deepEqual(problems.filter(isNotCutOff), []);
});

pageTest("another component reloads the page, and so does another manifest", async (page) => {
  const code = await readFile(component("page"));
  const at = code.indexOf("New orders will appear here");
  assert.ok(at > 0, "the page has changed");
  code.write("All orders will appear here", at);
  await writeFile(file("other.wasm"), code);
  await save("source.rs", file("other.wasm"));
  await reloaded(page);
  await page.getByText("All orders will appear here").waitFor({ state: "attached", timeout: SOON });
  await mark(page);
  const manifest = await readFile(file("spin.toml"), "utf8");
  await save("spin.toml", manifest.replace("[component.page]", "[component.page]\nsauce = 1"));
  await overlay(page).waitFor({ timeout: SOON });
  assert.match(await overlay(page).innerText(), /component\.page\.sauce/);
  assert.ok(await isMarked(page));
  await save("spin.toml", manifest);
  await reloaded(page);
  assert.equal(await overlay(page).count(), 0);
});

pageTest("pages come back to a host that was started again", async (page) => {
  const { address } = host;
  await host.stop();
  host = await start(address);
  await reloaded(page);
});
