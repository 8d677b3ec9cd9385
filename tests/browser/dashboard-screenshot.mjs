// Takes the screenshot of the dashboard: node tests/browser/dashboard-screenshot.mjs URL CONTROL
//
// URL and CONTROL are those of a host of Socket Burger without a key, which makes an order every 1 to 3 s. The
// script watches it for two minutes, with clients that come and go, so that the charts are full.

import { execFileSync } from "node:child_process";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { launch } from "./browser.mjs";

const PATH = fileURLToPath(new URL("../../docs/dashboard.png", import.meta.url));
const SIZE = { width: 1440, height: 1500 };
const SECONDS = 125;

const [url, control] = process.argv.slice(2);
const browser = await launch();
try {
  const context = await browser.newContext({ viewport: SIZE, colorScheme: "light", reducedMotion: "reduce" });
  const page = await context.newPage();
  await page.goto(control);
  const client = await context.newPage();
  await client.goto(`${url}/api/orders?limit=1`);
  await client.evaluate((url) => {
    globalThis.sockets = [];
    globalThis.connect = () => {
      const socket = new WebSocket(url);
      // The component answers these itself.
      const ping = () => socket.readyState === WebSocket.OPEN && socket.send('{ "event": "ping" }');
      setInterval(ping, 3000 + 4000 * Math.random());
      sockets.push(socket);
    };
  }, `${url.replace("http", "ws")}/api/ws`);
  await page.getByRole("button", { name: "orders", exact: true }).click();
  for (let second = 0; second < SECONDS; second += 1) {
    if (second % 12 === 0) await client.evaluate(() => connect());
    if (second % 25 === 24) await client.evaluate(() => sockets.shift().close());
    if (second === 100) await page.getByRole("button", { name: "Refresh" }).first().click();
    await pause(1000);
  }
  await page.bringToFront();
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: PATH, animations: "disabled" });
  // Fewer colours look the same at a third of the size. pngquant is a Debian package.
  execFileSync("pngquant", ["--force", "--speed=1", "--output", PATH, "128", PATH]);
} finally {
  await browser.close();
}
