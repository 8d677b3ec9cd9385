// Nothing is lost during an outage of the host or the network. Another host with the
// same store makes orders during it, and both pages show each order once.

import assert from "node:assert/strict";
import { describe } from "node:test";

import { Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertCaughtUp, atRest, eventually, openAll, shownIds, status } from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const OUTAGE_MS = 20_000;
/** How soon the page must detect a dead connection: 9 s, plus a margin for a busy machine. */
const DETECTION_MS = 12_000;
/** The least number of orders made during the outage: more than the rail shows. */
const MIN_MADE = 14;

/** Records the queries of a page's requests for orders from now on. */
function recordQueries(page) {
  const queries = [];
  page.on("request", (request) => {
    const { pathname, searchParams } = new URL(request.url());
    if (pathname === "/api/orders") queries.push(Object.fromEntries(searchParams));
  });
  return queries;
}

/** Asserts that a page fetched all orders after `last`, its newest before the outage, and can show them. */
async function assertAllShown(page, queries, last) {
  const hasFetchedAll = queries.some(({ after, limit }) => after <= last && limit === undefined);
  assert.ok(hasFetchedAll, `no request for all orders after ${last}: ${JSON.stringify(queries)}`);
  // The event stream's ping fetches the latest order.
  assert.ok(queries.every(({ after, limit }) => after !== undefined || limit === "1"), `the page did not continue after its newest order: ${JSON.stringify(queries)}`);
  const seen = new Set(await shownIds(page));
  const all = Array.from({ length: Math.max(...seen) - last }, (_, index) => last + 1 + index);
  const missing = () => all.filter((id) => !seen.has(id));
  // On a busy machine there may be many.
  for (let steps = 0; missing().length > 0; steps += 1) {
    assert.ok(steps < all.length, `missing: ${missing()}`);
    await page.getByRole("button", { name: "Older" }).click();
    await atRest(page);
    for (const id of await shownIds(page)) seen.add(id);
  }
}

/** Returns a function that resolves to when, by its own clock, a page detected the loss of its connection. */
async function observeLoss(page) {
  const handle = await page.evaluateHandle(() => {
    const line = document.getElementById("status");
    return {
      at: new Promise((resolve) => {
        new MutationObserver(() => {
          if (line.dataset.state === "reconnecting") resolve(Date.now());
        }).observe(line, { attributeFilter: ["data-state"] });
      }),
    };
  });
  return () => handle.evaluate(({ at }) => at);
}

const elapsed = (since, ms) => new Promise((resolve) => setTimeout(resolve, since + ms - Date.now()));

// The tests mostly wait, so they run concurrently, each with its own host.
const [killed, cut] = [new Fixture({ stock: 15 }), new Fixture({ stock: 15 })];

describe("outage", { concurrency: true }, () => {
  killed.pages("the host is killed and restarted after 20 s", 2, {}, async (pages) => {
    const { stateDir } = killed;
    const assertSame = await openAll(pages, killed.host.url);
    const last = (await shownIds(pages[0])).at(-1);
    const { address } = killed.host;
    const killedAt = Date.now();
    await killed.host.kill();
    for (const page of pages) await status(page, "reconnecting");
    const line = pages[0].locator("#status");
    await eventually(async () => assert.match(await line.textContent(), /^Reconnecting in \d+ s, since \d/));

    await makeOrders(stateDir, MIN_MADE);
    const other = await Host.start({ stateDir, every: "1h" });
    await other.change(last, "fired");
    const made = (await other.newest()) - last;
    await other.stop();
    const queries = pages.map(recordQueries);
    assert.ok(made >= MIN_MADE, `${made} orders were made`);
    for (const page of pages) assert.equal((await shownIds(page)).at(-1), last, "the pages are disconnected");

    await elapsed(killedAt, OUTAGE_MS);
    killed.host = await Host.start({ stateDir, every: "1h", listen: address });
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page, killed.host);
    }
    for (const [index, page] of pages.entries()) await assertAllShown(page, queries[index], last);
    await assertSame();
  });

  cut.pages("the network drops everything for 20 s without closing connections", 2, {}, async (pages, problems, defer) => {
    const { host, stateDir } = cut;
    const proxy = await Proxy.start(host.url);
    defer(() => proxy.stop());
    const assertSame = await openAll(pages, proxy.url);
    const last = (await shownIds(pages[0])).at(-1);
    const losses = await Promise.all(pages.map(observeLoss));
    proxy.freeze();
    const frozenAt = Date.now();
    for (const lostAt of losses) {
      const delay = (await lostAt()) - frozenAt;
      assert.ok(delay < DETECTION_MS, `detected after ${delay} ms`);
    }
    const queries = pages.map(recordQueries);

    await makeOrders(stateDir, MIN_MADE);
    await host.change(last, "fired");
    const made = (await host.newest()) - last;
    assert.ok(made >= MIN_MADE, `${made} orders were made`);

    await elapsed(frozenAt, OUTAGE_MS);
    proxy.heal();
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page, host);
    }
    for (const [index, page] of pages.entries()) await assertAllShown(page, queries[index], last);
    await assertSame();
  });
});
