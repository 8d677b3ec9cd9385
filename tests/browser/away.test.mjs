// Nothing is lost while the host or the network is away: orders are made by another
// host on the same store, and both windows show each of them once, without a reload.

import assert from "node:assert/strict";
import { describe } from "node:test";

import { Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertCaughtUp, atRest, eventually, openAll, shownIds, status } from "./rail.mjs";
import { Setting } from "./setting.mjs";

/** How long, in ms, it is away. */
const AWAY = 20_000;
/** How long, in ms, a dead connection may seem alive: 9 s, and what a busy machine adds. */
const NOTICED = 12_000;
/** How many orders are made meanwhile, at least: more than the rail holds. */
const MADE = 14;

/** What a page asks for from now on, of orders. */
function asks(page) {
  const asked = [];
  page.on("request", (request) => {
    const { pathname, searchParams } = new URL(request.url());
    if (pathname === "/api/orders") asked.push(Object.fromEntries(searchParams));
  });
  return asked;
}

/** Makes sure that a page that knew the order `last` asked for all after it, and can show all of them. */
async function assertFilled(page, asked, last) {
  const filled = asked.some(({ after, limit }) => after <= last && limit === undefined);
  assert.ok(filled, `not asked for what came after ${last}: ${JSON.stringify(asked)}`);
  // What stands in for a ping asks for the latest one.
  assert.ok(asked.every(({ after, limit }) => after !== undefined || limit === "1"), `it began anew: ${JSON.stringify(asked)}`);
  const seen = new Set(await shownIds(page));
  const all = Array.from({ length: Math.max(...seen) - last }, (_, index) => last + 1 + index);
  const missing = () => all.filter((id) => !seen.has(id));
  // Step by step: there may be many, on a busy machine.
  for (let steps = 0; missing().length > 0; steps += 1) {
    assert.ok(steps < all.length, `not shown: ${missing()}`);
    await page.getByRole("button", { name: "Older" }).click();
    await atRest(page);
    for (const id of await shownIds(page)) seen.add(id);
  }
}

/** Returns a promise of when, by its own clock, a page noticed that its connection is lost. */
async function lossAt(page) {
  const seen = await page.evaluateHandle(() => {
    const line = document.getElementById("status");
    return {
      at: new Promise((resolve) => {
        new MutationObserver(() => {
          if (line.dataset.state === "reconnecting") resolve(Date.now());
        }).observe(line, { attributeFilter: ["data-state"] });
      }),
    };
  });
  return () => seen.evaluate(({ at }) => at);
}

const passed = (since, ms) => new Promise((resolve) => setTimeout(resolve, since + ms - Date.now()));

// Each with a host of its own, since most of it is waiting.
const [killed, cut] = [new Setting({ stock: 15 }), new Setting({ stock: 15 })];

describe("away", { concurrency: true }, () => {
  killed.pages("the host is killed, and started again after 20 s", 2, {}, async (pages) => {
    const { stateDir } = killed;
    const assertSame = await openAll(pages, killed.host.url);
    const last = (await shownIds(pages[0])).at(-1);
    const { address } = killed.host;
    const gone = Date.now();
    await killed.host.kill();
    for (const page of pages) await status(page, "reconnecting");
    const line = pages[0].locator("#status");
    await eventually(async () => assert.match(await line.textContent(), /^Reconnecting in \d+ s, since \d/));

    await makeOrders(stateDir, MADE);
    const other = await Host.start({ stateDir, every: "1h" });
    await other.change(last, "fired");
    const made = (await other.newest()) - last;
    await other.stop();
    const asked = pages.map(asks);
    assert.ok(made >= MADE, `${made} orders were made`);
    for (const page of pages) assert.equal((await shownIds(page)).at(-1), last, "nobody could tell");

    await passed(gone, AWAY);
    killed.host = await Host.start({ stateDir, every: "1h", listen: address });
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page, killed.host);
    }
    for (const [index, page] of pages.entries()) await assertFilled(page, asked[index], last);
    await assertSame();
  });

  cut.pages("the network forwards nothing for 20 s, and closes nothing", 2, {}, async (pages, problems, later) => {
    const { host, stateDir } = cut;
    const proxy = await Proxy.start(host.url);
    later(() => proxy.stop());
    const assertSame = await openAll(pages, proxy.url);
    const last = (await shownIds(pages[0])).at(-1);
    const noticing = await Promise.all(pages.map(lossAt));
    proxy.freeze();
    const frozen = Date.now();
    for (const noticedAt of noticing) {
      const noticed = (await noticedAt()) - frozen;
      assert.ok(noticed < NOTICED, `noticed after ${noticed} ms`);
    }
    const asked = pages.map(asks);

    await makeOrders(stateDir, MADE);
    await host.change(last, "fired");
    const made = (await host.newest()) - last;
    assert.ok(made >= MADE, `${made} orders were made`);

    await passed(frozen, AWAY);
    proxy.heal();
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page, host);
    }
    for (const [index, page] of pages.entries()) await assertFilled(page, asked[index], last);
    await assertSame();
  });
});
