// The page's size, and its behaviour under load.

import assert from "node:assert/strict";

import { launch } from "./browser.mjs";
import { Host, makeOrders, newState, publishOrders, removeState } from "./host.mjs";
import { eventually, open, shownAs, shownIds, status, ticket } from "./page.mjs";
import { Fixture } from "./fixture.mjs";
import { isTls } from "./tls.mjs";

const fixture = new Fixture({ stock: 20 });

/** The most that the page may transfer in all, including headers, with Brotli and with gzip. */
const BUDGET_BYTES = 36_500;
const LONG_TASK_MS = 100;

/** Opens the page, and returns the responses to its requests and their total size in bytes. */
async function measureTransfer(page, url) {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  let bytes = 0;
  const byRequest = new Map();
  session.on("Network.responseReceived", ({ requestId, response }) => byRequest.set(requestId, response));
  session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    if (byRequest.has(requestId)) bytes += encodedDataLength;
  });
  await open(page, url);
  await page.waitForLoadState("networkidle");
  const responses = [...byRequest.values()];
  const urls = responses.map((response) => response.url);
  for (const part of ["/api/orders?after=", "/main.", "/page.", "/kitchen."]) {
    assert.ok(urls.some((url) => url.includes(part)), `no request for ${part}`);
  }
  return [responses, bytes];
}

fixture.page("the page is small, and requests each file once", {}, async (page, problems) => {
  const [responses, bytes] = await measureTransfer(page, fixture.host.url);
  assert.ok(bytes > 10_000, `${bytes} bytes: some were not counted`);
  assert.ok(bytes < BUDGET_BYTES, `${bytes} bytes`);
  const assets = responses.filter(({ url }) => url.includes("/static/"));
  for (const { url, headers } of assets) {
    assert.equal(headers["content-encoding"], "br", url);
    assert.equal(headers["cache-control"], "public, max-age=31536000, immutable", url);
    assert.equal(headers["x-content-type-options"], "nosniff", url);
  }
  assert.equal(new Set(assets.map(({ url }) => url)).size, assets.length);

  // A second visit requests the page, and takes its files from the cache.
  await page.goto(fixture.host.url);
  await status(page, "open");
  const entries = await page.evaluate(() =>
    performance.getEntriesByType("resource").map(({ name, transferSize }) => [name, transferSize]),
  );
  const cached = entries.filter(([url]) => url.includes("/static/"));
  assert.equal(cached.length, assets.length, `${cached}`);
  assert.deepEqual(cached.filter(([, size]) => size > 0), []);
  assert.deepEqual(problems, []);
});

// Browsers accept Brotli only in secure contexts; a screen in a local network has none.
const skip = isTls && "with TLS, browsers always accept Brotli";
fixture.page("the page is small without Brotli", { skip }, async (_page, _problems, defer) => {
  const browser = await launch("--host-resolver-rules=MAP kitchen.test 127.0.0.1");
  defer(() => browser.close());
  const page = await browser.newPage();
  const [responses, bytes] = await measureTransfer(page, fixture.host.url.replace("127.0.0.1", "kitchen.test"));
  assert.ok(bytes < BUDGET_BYTES, `${bytes} bytes`);
  for (const { url, headers } of responses) {
    if (url.includes("/api/")) continue;
    assert.equal(headers["content-encoding"], "gzip", url);
  }
});

for (const reducedMotion of ["no-preference", "reduce"]) {
  const name = reducedMotion === "reduce" ? "nothing moves with reduced motion" : "receipts move without layout shifts";
  fixture.page(name, { reducedMotion }, async (page, problems, defer) => {
    const stateDir = await newState();
    defer(() => removeState(stateDir));
    const host = await Host.start({ stateDir, every: "400ms" });
    defer(() => host.stop());
    await page.addInitScript(() => {
      globalThis.shifts = [];
      globalThis.moves = [];
      new PerformanceObserver((list) => {
        for (const { value, sources } of list.getEntries()) {
          globalThis.shifts.push([value, ...sources.map(({ node }) => node?.outerHTML?.slice(0, 80))]);
        }
      }).observe({ type: "layout-shift", buffered: true });
      for (const event of ["transitionrun", "animationstart"]) {
        addEventListener(event, ({ propertyName, animationName }) => globalThis.moves.push(propertyName ?? animationName), true);
      }
    });
    await open(page, host.url);
    const first = (await shownIds(page)).at(-1) ?? 99;
    await ticket(page, first + 15).waitFor();
    await ticket(page, first + 15).locator(".advance").evaluate((button) => button.click());
    await shownAs(page, first + 15, "fired");
    const { shifts, moves } = await page.evaluate(() => ({ shifts: globalThis.shifts, moves: globalThis.moves }));
    assert.deepEqual(shifts, []);
    if (reducedMotion === "reduce") assert.deepEqual(moves, []);
    else assert.ok(moves.includes("transform") && moves.includes("swing"), `${moves}`);
    assert.deepEqual(problems, []);
  });
}

fixture.page("sixty orders in a second cause no long tasks", {}, async (page, problems) => {
  const { host, stateDir } = fixture;
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  const arrivals = [];
  session.on("Network.webSocketFrameReceived", ({ timestamp, response }) => {
    if (response.payloadData.includes('"order-received"')) arrivals.push(timestamp);
  });
  await open(page, host.url);
  await page.waitForLoadState("networkidle");
  // Another host makes them beforehand, so that they can all be published at once.
  const before = await host.newest();
  await makeOrders(stateDir, 60);
  const orders = await host.orders(before);
  const last = orders.at(-1).id;
  await fixture.browser.startTracing(page, { categories: ["toplevel", "__metadata"] });
  await publishOrders(host, orders);
  await ticket(page, last).waitFor();
  const trace = JSON.parse(await fixture.browser.stopTracing()).traceEvents;
  assert.ok(arrivals.length >= 60, `${arrivals.length} orders arrived`);
  const duration = arrivals[59] - arrivals[0];
  assert.ok(duration < 1, `60 orders in ${duration} s`);
  const tasks = mainThreadTasks(trace);
  assert.ok(Math.max(...tasks) > 1, `only ${tasks}: the trace is incomplete`);
  assert.deepEqual(tasks.filter((ms) => ms > LONG_TASK_MS), [], `60 orders in ${duration} s`);
  assert.ok(last >= before + 60, `${last} after ${before}`);
  await eventually(async () =>
    assert.deepEqual(await shownIds(page), Array.from({ length: 12 }, (_, index) => last - 11 + index)),
  );
  assert.deepEqual(problems, []);
});

/**
 * Returns the CPU time in ms of each task of the pages' main threads. Unlike the elapsed
 * time, it does not depend on other load on the machine.
 */
function mainThreadTasks(events) {
  const mainThreads = new Set(
    events
      .filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain")
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  return events
    .filter(({ name, ph, pid, tid }) => ph === "X" && name.endsWith("RunTask") && mainThreads.has(`${pid} ${tid}`))
    .map(({ tdur = 0 }) => tdur / 1000);
}
