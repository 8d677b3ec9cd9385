// node tests/browser/reload-times.mjs [ROUNDS] measures how long an edit takes to show in a browser.
//
// The page's style sheet, and its component: what a compiler would make is put in its place by a
// build command that takes no time, so that the figure is what comes on top of the compiler's time.
// Each component is another, so that nothing comes from the compilation cache. A round begins just
// before the file is saved and ends when the browser shows the new style or text.

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
    const listens = page.waitForRequest(/\.socket-host\/reload$/);
    await page.goto(host.url);
    await listens;
    const css = await readFile(file("static/page.css"), "utf8");
    await figures("style sheet", async (round) => {
      const seen = page.waitForFunction(
        (wanted) => getComputedStyle(document.body).getPropertyValue("--round").trim() === wanted,
        String(round),
      );
      const start = performance.now();
      await save("static/page.css", `${css}\n:root { --round: ${round}; }\n`);
      await seen;
      return performance.now() - start;
    });
    await figures("component", async (round) => {
      const text = `New orders ${String(round).padStart(4, "0")} appear here`;
      const next = Buffer.from(code);
      next.write(text, code.indexOf(TEXT));
      // Something no cache has met.
      const wanted = page.getByText(text).waitFor({ state: "attached" });
      const start = performance.now();
      await save("page.source", next);
      await wanted;
      return performance.now() - start;
    }, Math.floor(Math.random() * 5000));
  });
} finally {
  await browser.close();
  await host.stop();
  await rm(folder, { recursive: true, force: true });
}

async function figures(name, measure, first = 0) {
  const times = [];
  for (let round = 0; round < rounds; round += 1) times.push(await measure(first + round));
  times.sort((a, b) => a - b);
  const at = (share) => `${times[Math.min(times.length - 1, Math.floor(times.length * share))].toFixed(0)} ms`;
  console.log(`${name}: p50 ${at(0.5)}, p90 ${at(0.9)}, most ${at(1)}, of ${rounds}`);
}
