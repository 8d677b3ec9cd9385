// Nothing is lost while the host or the network is away: orders are made by another
// host on the same store, and both windows show each of them once, without a reload.

import assert from "node:assert/strict";
import { describe } from "node:test";

import { Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertCaughtUp, eventually, openAll, shownIds, status } from "./rail.mjs";
import { Setting } from "./setting.mjs";

/** How long, in ms, it is away. */
const AWAY = 20_000;
/** How long, in ms, a dead connection may seem alive. */
const NOTICED = 10_000;
/** How many orders are made meanwhile, at least. */
const MADE = 5;

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
    assert.ok(made >= MADE, `${made} orders were made`);
    for (const page of pages) assert.equal((await shownIds(page)).at(-1), last, "nobody could tell");

    await passed(gone, AWAY);
    killed.host = await Host.start({ stateDir, every: "1h", listen: address });
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page, killed.host);
    }
    await assertSame();
  });

  cut.pages("the network forwards nothing for 20 s, and closes nothing", 2, {}, async (pages) => {
    const { host, stateDir } = cut;
    const proxy = await Proxy.start(host.url);
    try {
      const assertSame = await openAll(pages, proxy.url);
      const last = (await shownIds(pages[0])).at(-1);
      proxy.freeze();
      const frozen = Date.now();
      for (const page of pages) await status(page, "reconnecting");
      const noticed = Date.now() - frozen;
      assert.ok(noticed < NOTICED + 1_000, `noticed after ${noticed} ms`);

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
      await assertSame();
    } finally {
      await proxy.stop();
    }
  });
});
