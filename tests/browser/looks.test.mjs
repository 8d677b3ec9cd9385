// How the page looks and behaves: for everyone, on every screen, and under load.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

import { Host, newState, removeState } from "./host.mjs";
import { eventually, open, shownAs, shownIds, status, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 20 });
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** What everything may weigh on the way, headers included, in bytes. */
const BUDGET = 30 * 1024;
/** From how many ms on a task of the page is a long one. */
const LONG = 100;
const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };

/** One ticket in each status, and all ages: what a screen looks like after a while. */
async function vary(page) {
  const ids = (await shownIds(page)).slice(-4);
  const orders = await setting.host.orders(ids[0] - 1);
  const is = (id) => orders.find((order) => order.id === id).status;
  for (const [id, buttons] of [
    [ids[0], [".onwards", ".onwards"]],
    [ids[1], [".cancel"]],
    [ids[2], [".onwards"]],
  ]) {
    if (is(id) !== "received") continue;
    for (const button of buttons) await page.evaluate(([id, button]) => document.querySelector(`[data-id="${id}"] ${button}`).click(), [id, button]);
  }
  await shownAs(page, ids[0], "fulfilled");
  await shownAs(page, ids[1], "cancelled");
  await shownAs(page, ids[2], "fired");
  await page.evaluate(() => {
    const ages = ["fresh", "aging", "late"];
    const waiting = document.querySelectorAll('[data-status="received"]');
    for (const [index, it] of waiting.entries()) it.dataset.age = ages[index % 3];
  });
}

for (const [name, options, prepare] of [
  ["in the dark", { colorScheme: "dark" }],
  ["in the light", { colorScheme: "light" }],
  ["on a phone", { ...PHONE, colorScheme: "dark" }],
  ["on a phone in the light", { ...PHONE, colorScheme: "light" }],
  ["with the dialog open", { colorScheme: "dark" }, (page) => page.keyboard.press("?")],
  ["with a notice", { colorScheme: "light" }, (page) => page.evaluate(() => (document.getElementById("notice").textContent = "Order 100 is as it was"))],
  ["with older orders", { colorScheme: "light" }, (page) => page.getByRole("button", { name: "Older" }).click()],
]) {
  setting.page(`axe finds nothing ${name}`, { ...options, reducedMotion: "reduce" }, async (page, problems) => {
    await open(page, setting.host.url);
    await vary(page);
    await prepare?.(page);
    // Not by a script element, which the page's policy refuses.
    await page.evaluate(await readFile(AXE, "utf8"));
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    const found = violations.flatMap(({ id, help, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${help}\n${html}\n${failureSummary}`),
    );
    assert.deepEqual(found, []);
    assert.deepEqual(problems, []);
  });
}

setting.page("everything weighs little, and is asked for once", {}, async (page, problems) => {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  let bytes = 0;
  const byRequest = new Map();
  session.on("Network.responseReceived", ({ requestId, response }) => byRequest.set(requestId, response));
  session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    const response = byRequest.get(requestId);
    if (response && !response.url.includes("/api/")) bytes += encodedDataLength;
  });
  await open(page, setting.host.url);
  await page.waitForLoadState("networkidle");
  assert.ok(bytes > 10_000, `${bytes} bytes: something was not counted`);
  assert.ok(bytes < BUDGET, `${bytes} bytes`);
  for (const { url, headers } of byRequest.values()) {
    if (!url.includes("/static/")) continue;
    assert.equal(headers["cache-control"], "max-age=31536000, immutable", url);
    assert.equal(headers["x-content-type-options"], "nosniff", url);
  }
  const urls = [...byRequest.values()].map(({ url }) => url).filter((url) => url.includes("/static/"));
  assert.equal(new Set(urls).size, urls.length, `${urls}`);

  // A second visit asks for the page and for nothing that it had.
  await page.goto(setting.host.url);
  await status(page, "open");
  const again = await page.evaluate(() =>
    performance.getEntriesByType("resource").map(({ name, transferSize }) => [name, transferSize]),
  );
  const assets = again.filter(([url]) => url.includes("/static/"));
  assert.ok(assets.length > 20, `${assets}`);
  assert.deepEqual(assets.filter(([, size]) => size > 0), []);
  assert.deepEqual(problems, []);
});

setting.page("the policy is strict, and nothing offends it", {}, async (page, problems) => {
  await page.addInitScript(() => {
    globalThis.offences = [];
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      globalThis.offences.push(`${violatedDirective}: ${blockedURI}`),
    );
  });
  const response = await page.goto(setting.host.url);
  await status(page, "open");
  const headers = response.headers();
  const policy = Object.fromEntries(
    headers["content-security-policy"].split(";").map((it) => it.trim().split(/ (.*)/, 2)),
  );
  assert.equal(policy["default-src"], "'none'");
  assert.equal(policy["script-src"], "'self'");
  assert.equal(policy["style-src"], "'self'");
  assert.equal(policy["frame-ancestors"], "'none'");
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.equal(headers["referrer-policy"], "no-referrer");
  await vary(page);
  await page.getByRole("button", { name: "Chime" }).click();
  await page.keyboard.press("?");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Older" }).click();
  await eventually(async () => assert.match(await page.locator("#icon").getAttribute("href"), /^data:image/));
  assert.match(await page.title(), /^\(\d+\) Socket Burger$/);
  assert.deepEqual(await page.evaluate(() => globalThis.offences), []);
  assert.deepEqual(problems, []);
});

setting.page("an order's text is never markup", {}, async (page) => {
  const evil = '<img src=x onerror="globalThis.was = 1">';
  await page.routeWebSocket(/\/api\/ws$/, (socket) => {
    const server = socket.connectToServer();
    server.onMessage((message) => {
      socket.send(message);
      if (JSON.parse(message).event !== "pong") return;
      const order = {
        id: newest + 1,
        timestamp: "2026-01-02T03:04:05.678Z",
        destination: evil,
        status: "received",
        items: [{ name: evil, substitutions: [evil] }],
        notes: [evil],
      };
      socket.send(JSON.stringify({ event: "order-received", detail: { order } }));
    });
  });
  const newest = (await setting.host.orders()).at(-1).id;
  await page.goto(setting.host.url);
  const receipt = ticket(page, newest + 1);
  await receipt.waitFor();
  assert.equal((await receipt.textContent()).split(evil).length - 1, 4);
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.evaluate(() => globalThis.was), undefined);
});

setting.page("on a phone all can be reached", PHONE, async (page, problems) => {
  await open(page, setting.host.url);
  const size = await page.evaluate(() => [document.body.scrollWidth, document.body.scrollHeight]);
  assert.deepEqual(size, [360, 740], "the page itself does not scroll");
  const newest = (await shownIds(page)).at(-1);
  const box = await ticket(page, newest).boundingBox();
  assert.ok(box.x >= 0 && box.x + box.width <= 360, JSON.stringify(box));
  for (const button of await page.getByRole("button").all()) {
    if (!(await button.isVisible())) continue;
    const { width, height } = await button.boundingBox();
    assert.ok(width >= 24 && height >= 24, `${await button.textContent()}: ${width} × ${height}`);
  }
  await page.evaluate(() => document.getElementById("kitchen").scrollTo(-1000, 0));
  assert.ok(!(await ticket(page, newest).evaluate((it) => it.getBoundingClientRect().left < innerWidth)));
  await page.getByRole("button", { name: "Newest" }).tap();
  await eventually(async () => assert.ok((await ticket(page, newest).boundingBox()).x >= 0));
  await eventually(async () => assert.equal(await page.getByRole("button", { name: "Newest" }).isVisible(), false));
  assert.deepEqual(problems, []);
});

setting.page("without JavaScript the receipts are there, and no buttons", { javaScriptEnabled: false }, async (page) => {
  await page.goto(setting.host.url);
  assert.equal((await shownIds(page)).length, 12);
  assert.equal(await page.getByRole("button").filter({ visible: true }).count(), 0);
  await page.locator("noscript .status").waitFor();
});

setting.page("on paper there are receipts and nothing else", {}, async (page) => {
  await open(page, setting.host.url);
  await page.emulateMedia({ media: "print" });
  const boxes = await page.locator(".receipt").evaluateAll((all) => all.map((it) => it.getBoundingClientRect().toJSON()));
  assert.equal(boxes.length, 12);
  for (const [index, one] of boxes.entries()) {
    for (const other of boxes.slice(index + 1)) {
      const apart = one.right <= other.left || one.left >= other.right || one.bottom <= other.top || one.top >= other.bottom;
      assert.ok(apart, "two receipts overlap");
    }
  }
  for (const gone of [".bar", ".foot", ".actions"]) {
    assert.equal(await page.locator(gone).first().isVisible(), false, gone);
  }
});

for (const reducedMotion of ["no-preference", "reduce"]) {
  const name = reducedMotion === "reduce" ? "nothing moves for who wants no motion" : "receipts move, and the layout does not";
  setting.page(name, { reducedMotion }, async (page, problems) => {
    const stateDir = await newState();
    const host = await Host.start({ stateDir, every: "400ms" });
    try {
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
    } finally {
      await host.stop();
      await removeState(stateDir);
    }
  });
}

setting.page("sixty orders in a second", {}, async (page, problems) => {
  const stateDir = await newState();
  // It makes them as fast as it can: more than sixty in a second.
  const host = await Host.start({ stateDir, every: "10ms" });
  try {
    await open(page, host.url);
    await page.waitForLoadState("networkidle");
    await setting.browser.startTracing(page, { categories: ["toplevel", "__metadata"] });
    const latest = async () => (await (await fetch(`${host.url}/api/orders?limit=1`)).json()).orders[0].id;
    const before = await latest();
    const start = Date.now();
    while ((await latest()) < before + 60);
    const took = Date.now() - start;
    const trace = JSON.parse(await setting.browser.stopTracing()).traceEvents;
    const tasks = mainThreadTasks(trace);
    assert.ok(Math.max(...tasks) > 1, `only ${tasks}: the trace is not what it was`);
    assert.deepEqual(tasks.filter((ms) => ms > LONG), [], `60 orders in ${took} ms`);
    await host.stop();

    const ids = await shownIds(page);
    assert.equal(ids.length, 12);
    assert.deepEqual(ids, ids.map((_, index) => ids[0] + index));
    assert.ok(ids.at(-1) >= before + 60, `${ids} after ${before}`);
  } finally {
    await host.stop().catch(() => {});
    await removeState(stateDir);
  }
  // That the host went away is the one thing that may be said.
  assert.deepEqual(problems.filter((problem) => !problem.includes("WebSocket")), []);
});

/**
 * How long, in ms, each task of the pages' main threads kept the processor: what
 * other programs did meanwhile is not the page's fault.
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
