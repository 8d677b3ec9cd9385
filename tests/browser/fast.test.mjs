// The page is light, and at ease under load.

import assert from "node:assert/strict";

import { launch } from "./browser.mjs";
import { Host, makeOrders, newState, publishOrders, removeState } from "./host.mjs";
import { eventually, open, shownAs, shownIds, status, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 20 });

/** What everything may weigh on the way, headers included, in bytes. */
const BUDGET = 30_000;
/** From how many ms on a task of the page is a long one. */
const LONG = 100;

/**
 * Opens the page, and returns the answers to its requests, and how many bytes they
 * were in all.
 */
async function weigh(page, url) {
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
  const asked = responses.map((response) => response.url);
  for (const part of ["/api/orders?after=", "/main.", "/page.", "/kitchen."]) {
    assert.ok(asked.some((url) => url.includes(part)), `no request for ${part}`);
  }
  return [responses, bytes];
}

setting.page("everything weighs little, and is asked for once", {}, async (page, problems) => {
  const [responses, bytes] = await weigh(page, setting.host.url);
  assert.ok(bytes > 10_000, `${bytes} bytes: something was not counted`);
  assert.ok(bytes < BUDGET, `${bytes} bytes`);
  const assets = responses.filter(({ url }) => url.includes("/static/"));
  for (const { url, headers } of assets) {
    assert.equal(headers["content-encoding"], "br", url);
    assert.equal(headers["cache-control"], "max-age=31536000, immutable", url);
    assert.equal(headers["x-content-type-options"], "nosniff", url);
  }
  assert.equal(new Set(assets.map(({ url }) => url)).size, assets.length);

  // A second visit asks for the page and for nothing that it had.
  await page.goto(setting.host.url);
  await status(page, "open");
  const again = await page.evaluate(() =>
    performance.getEntriesByType("resource").map(({ name, transferSize }) => [name, transferSize]),
  );
  const kept = again.filter(([url]) => url.includes("/static/"));
  assert.equal(kept.length, assets.length, `${kept}`);
  assert.deepEqual(kept.filter(([, size]) => size > 0), []);
  assert.deepEqual(problems, []);
});

// Browsers take Brotli only of those they trust: this is a screen in a kitchen's own network.
setting.page("it weighs little without Brotli, too", {}, async (_page, _problems, later) => {
  const browser = await launch("--host-resolver-rules=MAP kitchen.test 127.0.0.1");
  later(() => browser.close());
  const page = await browser.newPage();
  const [responses, bytes] = await weigh(page, setting.host.url.replace("127.0.0.1", "kitchen.test"));
  assert.ok(bytes < BUDGET, `${bytes} bytes`);
  for (const { url, headers } of responses) {
    if (url.includes("/api/")) continue;
    assert.equal(headers["content-encoding"], "gzip", url);
  }
});

for (const reducedMotion of ["no-preference", "reduce"]) {
  const name = reducedMotion === "reduce" ? "nothing moves for who wants no motion" : "receipts move, and the layout does not";
  setting.page(name, { reducedMotion }, async (page, problems, later) => {
    const stateDir = await newState();
    later(() => removeState(stateDir));
    const host = await Host.start({ stateDir, every: "400ms" });
    later(() => host.stop());
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
    await ticket(page, first + 15).locator(".onwards").evaluate((button) => button.click());
    await shownAs(page, first + 15, "fired");
    const { shifts, moves } = await page.evaluate(() => ({ shifts: globalThis.shifts, moves: globalThis.moves }));
    assert.deepEqual(shifts, []);
    if (reducedMotion === "reduce") assert.deepEqual(moves, []);
    else assert.ok(moves.includes("transform") && moves.includes("swing"), `${moves}`);
    assert.deepEqual(problems, []);
  });
}

setting.page("sixty orders in a second", {}, async (page, problems) => {
  const { host, stateDir } = setting;
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  const arrivals = [];
  session.on("Network.webSocketFrameReceived", ({ timestamp, response }) => {
    if (response.payloadData.includes('"order-received"')) arrivals.push(timestamp);
  });
  await open(page, host.url);
  await page.waitForLoadState("networkidle");
  // They are made beforehand, by a host that nobody listens to: what is to be seen here
  // is how they arrive.
  const before = await host.newest();
  await makeOrders(stateDir, 60);
  const orders = await host.orders(before);
  const last = orders.at(-1).id;
  await setting.browser.startTracing(page, { categories: ["toplevel", "__metadata"] });
  await publishOrders(host, orders);
  await ticket(page, last).waitFor();
  const trace = JSON.parse(await setting.browser.stopTracing()).traceEvents;
  assert.ok(arrivals.length >= 60, `${arrivals.length} orders were told of`);
  const took = arrivals[59] - arrivals[0];
  assert.ok(took < 1, `60 orders in ${took} s`);
  const tasks = mainThreadTasks(trace);
  assert.ok(Math.max(...tasks) > 1, `only ${tasks}: the trace is not what it was`);
  assert.deepEqual(tasks.filter((ms) => ms > LONG), [], `60 orders in ${took} s`);
  assert.ok(last >= before + 60, `${last} after ${before}`);
  await eventually(async () =>
    assert.deepEqual(await shownIds(page), Array.from({ length: 12 }, (_, index) => last - 11 + index)),
  );
  assert.deepEqual(problems, []);
});

/**
 * How long, in ms, each task of the pages' main threads kept the processor. Not how
 * long each took: a machine that is busy with other programs makes the same tasks as
 * long as it likes, and these wait for nothing but the processor.
 */
function mainThreadTasks(events) {
  const mains = new Set(
    events
      .filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain")
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  return events
    .filter(({ name, ph, pid, tid }) => ph === "X" && name.endsWith("RunTask") && mains.has(`${pid} ${tid}`))
    .map(({ tdur = 0 }) => tdur / 1000);
}
