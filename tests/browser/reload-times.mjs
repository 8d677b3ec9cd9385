// node tests/browser/reload-times.mjs [ROUNDS] measures how long an edit takes to show in a browser.
//
// The page's style sheet, and its component: what a compiler would make is put in its place by a
// build command that only copies. What the host says that command took is the compiler's time, and
// is taken off: the figure is what comes on top of it. Each component is another, so that nothing
// comes from a cache. A round begins just before the file is saved and ends when the page has made
// a frame with the new style or text, by its own clock: what drives the browser is not in the way.
// Of a new page, the first contentful paint is told as well: when that frame is in pixels, which
// Chromium draws without a graphics card here.

import { cp, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { launch, withPage } from "./browser.mjs";
import { Host } from "./host.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const rounds = Number(process.argv[2] ?? 20);
const TEXT = "New orders will appear here";

const folder = await mkdtemp(join(tmpdir(), "socket-burger-times-"));
const file = (name) => join(folder, name);

async function save(name, content) {
  await writeFile(file(`${name}~`), content);
  await rename(file(`${name}~`), file(name));
}

const code = await readFile(`${ROOT}target/wasm32-wasip2/component/page.wasm`);
const manifest = await readFile(`${ROOT}spin.toml`, "utf8");
await cp(`${ROOT}static`, file("static"), { recursive: true });
await save("page.source", code);
await save(
  "spin.toml",
  manifest
    .replace('every = "2s..6s"', 'every = "1h"')
    .replace(/source = "target\/[^"]*page.wasm"/, 'source = "page.wasm"')
    .replace('source = "target/', `source = "${ROOT}target/`)
    .replace('"components/build page"', '"cp page.source page.new && mv page.new page.wasm"')
    .replace('"components/build orders"', '"true"')
    .replace(/watch = \["components\/page.*\]/, 'watch = ["page.source"]'),
);

const host = await Host.start({
  stateDir: file("state"),
  from: file("spin.toml"),
  options: ["--watch"],
});
const browser = await launch();
try {
  await withPage(browser, "reload-times", {}, async (page) => {
    await page.addInitScript(watchFrames, TEXT.split("will").map((part) => part.trim()));
    const listens = page.waitForRequest(/\.socket-host\/reload$/);
    await page.goto(host.url);
    await listens;
    /** When the page had a frame with this, in ms since 1970. */
    const framed = async (what) => {
      const seen = await page.waitForFunction((wanted) => globalThis.framed?.[wanted], what);
      return seen.jsonValue();
    };
    const painted = async () => {
      const seen = await page.waitForFunction(() => {
        const [entry] = performance.getEntriesByName("first-contentful-paint");
        return entry && performance.timeOrigin + entry.startTime;
      });
      return seen.jsonValue();
    };
    const css = await readFile(file("static/page.css"), "utf8");
    await figures("style sheet", async (round) => {
      const start = now();
      await save("static/page.css", `${css}\n:root { --round: ${round}; }\n`);
      return { shown: (await framed(`style ${round}`)) - start };
    });
    await figures("component", async (round) => {
      const number = String(round).padStart(4, "0");
      const next = Buffer.from(code);
      next.write(TEXT.replace("will", number), code.indexOf(TEXT));
      const said = host.log.length;
      const start = now();
      await save("page.source", next);
      const shown = (await framed(`text ${number}`)) - start;
      const pixels = (await painted()) - start;
      const compiler = took(host.log.slice(said));
      return { shown: shown - compiler, pixels: pixels - compiler, compiler };
    }, Math.floor(Math.random() * 5000));
  });
} finally {
  await browser.close();
  await host.stop();
  await rm(folder, { recursive: true, force: true });
}

function now() {
  return performance.timeOrigin + performance.now();
}

/** What the one build took, in ms, by what the host said. */
function took(log) {
  const times = [...log.matchAll(/ built .*took=([\d.]+)(µs|ms|s)/g)];
  if (times.length !== 1) throw new Error(`${times.length} builds instead of one:\n${log}`);
  const [, value, unit] = times[0];
  return Number(value) * { µs: 0.001, ms: 1, s: 1000 }[unit];
}

/** Runs in each page: notes when it has made a frame with the next style or text. */
function watchFrames([before, after]) {
  globalThis.framed = {};
  const note = (what) => {
    if (what in globalThis.framed) return;
    globalThis.framed[what] = 0;
    // What is posted as a frame begins comes when it has been laid out and handed on.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (globalThis.framed[what] = performance.timeOrigin + performance.now());
    port2.postMessage(null);
  };
  requestAnimationFrame(function look() {
    if (document.body) {
      note(`style ${getComputedStyle(document.body).getPropertyValue("--round").trim()}`);
      const text = document.body.textContent;
      const at = text.indexOf(before);
      const number = text.slice(at + before.length, text.indexOf(after, at)).trim();
      if (at >= 0) note(`text ${number}`);
    }
    requestAnimationFrame(look);
  });
}

async function figures(name, measure, first = 0) {
  const times = { shown: [], pixels: [], compiler: [] };
  for (let round = 0; round < rounds; round += 1) {
    for (const [kind, time] of Object.entries(await measure(first + round))) times[kind].push(time);
  }
  console.log(`${name}: ${spread(times.shown)}, of ${rounds}`);
  if (times.pixels.length > 0) console.log(`  in pixels: ${spread(times.pixels)}`);
  if (times.compiler.length > 0) console.log(`  without its build command's ${spread(times.compiler)}`);
}

function spread(times) {
  times.sort((a, b) => a - b);
  const at = (share) => `${times[Math.min(times.length - 1, Math.floor(times.length * share))].toFixed(0)} ms`;
  return `p50 ${at(0.5)}, p90 ${at(0.9)}, most ${at(1)}`;
}
