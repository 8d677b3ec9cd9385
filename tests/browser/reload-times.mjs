// node tests/browser/reload-times.mjs [ROUNDS] measures how long an edit takes to show in a browser.
//
// It edits the page's style sheet, and its component. A build command that only copies replaces the
// compiler. Its duration, which the host logs, is subtracted, so the result is the overhead on top
// of the compiler. Each component is different, so nothing comes from a cache. A round begins just
// before the file is saved, and ends when the page has rendered a frame with the new style or text,
// by its own clock. For the component, the first contentful paint is measured as well: when that
// frame has been drawn, which Chromium does in software here.

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
for (const name of ["static", "client/src"]) await cp(`${ROOT}${name}`, file(name), { recursive: true });
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
    const connected = page.waitForEvent("websocket", (socket) => socket.url().endsWith("/.socket-host/reload"));
    await page.goto(host.url);
    await connected;
    /** Resolves to when the page had a frame with this style or text, in ms since the epoch. */
    const framed = async (what) => {
      const handle = await page.waitForFunction((wanted) => globalThis.framed?.[wanted], what);
      return handle.jsonValue();
    };
    const painted = async () => {
      const handle = await page.waitForFunction(() => {
        const [entry] = performance.getEntriesByName("first-contentful-paint");
        return entry && performance.timeOrigin + entry.startTime;
      });
      return handle.jsonValue();
    };
    const css = await readFile(file("static/page.css"), "utf8");
    await measure("style sheet", async (round) => {
      const start = now();
      await save("static/page.css", `${css}\n:root { --round: ${round}; }\n`);
      return { shown: (await framed(`style ${round}`)) - start };
    });
    await measure("component", async (round) => {
      const number = String(round).padStart(4, "0");
      const next = Buffer.from(code);
      next.write(TEXT.replace("will", number), code.indexOf(TEXT));
      const logStart = host.log.length;
      const start = now();
      await save("page.source", next);
      const shown = (await framed(`text ${number}`)) - start;
      const pixels = (await painted()) - start;
      const compiler = buildTime(host.log.slice(logStart));
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

/** Returns the duration in ms of the only build in the host's log. */
function buildTime(log) {
  const times = [...log.matchAll(/ built .*took=([\d.]+)(µs|ms|s)/g)];
  if (times.length !== 1) throw new Error(`${times.length} builds instead of one:\n${log}`);
  const [, value, unit] = times[0];
  return Number(value) * { µs: 0.001, ms: 1, s: 1000 }[unit];
}

/** Records when the page renders the first frame with each style or text. Runs in the page. */
function watchFrames([before, after]) {
  globalThis.framed = {};
  const record = (what) => {
    if (what in globalThis.framed) return;
    globalThis.framed[what] = 0;
    // A message that is posted at the start of a frame arrives after its layout.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (globalThis.framed[what] = performance.timeOrigin + performance.now());
    port2.postMessage(null);
  };
  requestAnimationFrame(function check() {
    if (document.body) {
      record(`style ${getComputedStyle(document.body).getPropertyValue("--round").trim()}`);
      const text = document.body.textContent;
      const at = text.indexOf(before);
      const number = text.slice(at + before.length, text.indexOf(after, at)).trim();
      if (at >= 0) record(`text ${number}`);
    }
    requestAnimationFrame(check);
  });
}

async function measure(name, run, first = 0) {
  const times = { shown: [], pixels: [], compiler: [] };
  for (let round = 0; round < rounds; round += 1) {
    for (const [kind, time] of Object.entries(await run(first + round))) times[kind].push(time);
  }
  console.log(`${name}: ${spread(times.shown)}, of ${rounds}`);
  if (times.pixels.length > 0) console.log(`  painted: ${spread(times.pixels)}`);
  if (times.compiler.length > 0) console.log(`  without the build command: ${spread(times.compiler)}`);
}

function spread(times) {
  times.sort((a, b) => a - b);
  const at = (share) => `${times[Math.min(times.length - 1, Math.floor(times.length * share))].toFixed(0)} ms`;
  return `p50 ${at(0.5)}, p90 ${at(0.9)}, max ${at(1)}`;
}
