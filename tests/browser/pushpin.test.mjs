// The page behaves behind Pushpin as behind the host.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { launch, withPage } from "./browser.mjs";
import { Host, KEY, deliverOrders, makeOrders, manifest, newState, removeState } from "./host.mjs";
import { assertCaughtUp, openAll, shownAs, status, ticket } from "./page.mjs";
import { Proxy } from "./proxy.mjs";
import { Pushpin } from "./pushpin.mjs";

const STOCK = 15;
const MISSED = 3;

const skip = process.env.BACKEND === "redis" && "the components behind Pushpin keep their orders in a file";

/** Starts each of the services with orders in `stateDir`. */
const services = {
  "the host": (stateDir) => Host.start({ stateDir, every: "1h" }),
  Pushpin: async (stateDir) => Pushpin.start({ manifest: await manifest(stateDir, "1h", 1), stateDir, key: KEY }),
};

describe("behind a proxy", { skip }, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  for (const [name, start] of Object.entries(services)) {
    test(`the page shows each order once behind ${name}`, { timeout: 240_000 }, async () => {
      await withPage(browser, `behind-${name}`, {}, async (page, problems, defer) => {
        const stateDir = await newState();
        defer(() => removeState(stateDir));
        await makeOrders(stateDir, STOCK);
        const service = await start(stateDir);
        defer(() => service.stop());
        const proxy = await Proxy.start(service.url);
        defer(() => proxy.stop());
        const assertSame = await openAll([page], proxy.url);
        assert.equal(await page.locator("#status").getAttribute("data-transport"), "socket");

        // What is published appears.
        await deliverOrders(service, stateDir, 1);
        const last = await service.newest();
        await ticket(page, last).waitFor();
        await service.change(last, "fired");
        await shownAs(page, last, "fired");

        // What the page has missed appears, whether the proxy knows it or not.
        proxy.freeze();
        for (let count = 0; count < MISSED; count += 1) await deliverOrders(service, stateDir, 1);
        await service.change(last + 1, "fired");
        proxy.heal();
        await ticket(page, last + MISSED).waitFor();
        await status(page, "open");
        await assertCaughtUp(page, service);

        // And what follows.
        await deliverOrders(service, stateDir, 1);
        await ticket(page, last + MISSED + 1).waitFor();
        await assertCaughtUp(page, service);
        await assertSame();
      });
    });
  }
});
