// Nothing is lost: not with the host, not with the network, not with the WebSocket.

import assert from "node:assert/strict";

import { Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import {
  assertEachOnceInOrder,
  assertWithoutGaps,
  eventually,
  open,
  rememberRails,
  shownAs,
  shownIds,
  status,
  ticket,
} from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 15 });

/** How long, in ms, a dead connection may seem alive. */
const NOTICED = 10_000;

/** Opens both, and makes sure later that what was opened is what is there. */
async function openAll(pages, url) {
  const documents = [];
  for (const page of pages) {
    await page.addInitScript(rememberRails);
    await open(page, url);
    documents.push(await page.evaluateHandle(() => document));
  }
  return async () => {
    for (const before of documents) {
      assert.ok(await before.evaluate((it) => it === document), "a page was reloaded");
    }
  };
}

/** Waits until a page shows the latest orders, and makes sure that it showed each once and in order. */
async function assertCaughtUp(page) {
  const latest = (await setting.host.orders()).slice(-12);
  await eventually(async () => {
    assert.deepEqual(await shownIds(page), latest.map(({ id }) => id));
    for (const { id, status } of latest) await shownAs(page, id, status, 1_000);
  }, 40_000);
  assertWithoutGaps(await shownIds(page));
  const rails = await page.evaluate(() => globalThis.rails);
  assertEachOnceInOrder(rails);
  assertNoneCameBack(rails);
}

/** An order that has left the rail for newer ones does not come again. */
function assertNoneCameBack(rails) {
  const seen = new Set();
  let before = new Set();
  for (const ids of rails) {
    for (const id of ids) assert.ok(before.has(id) || !seen.has(id), `order ${id} came twice`);
    before = new Set(ids);
    for (const id of ids) seen.add(id);
  }
}

/** Changes an order by way of the service, as another screen would. */
async function change(host, id, to) {
  const response = await fetch(`${host.url}/api/orders/${id}/status`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ status: to }),
  });
  assert.equal(response.status, 200, await response.text());
}

setting.pages("the host is killed, and orders are made while it is away", 2, {}, async (pages) => {
  const { stateDir } = setting;
  const assertSame = await openAll(pages, setting.host.url);
  const [last] = (await shownIds(pages[0])).slice(-1);
  const { address } = setting.host;
  await setting.host.kill();
  for (const page of pages) await status(page, "reconnecting");
  const line = pages[0].locator("#status");
  await eventually(async () => assert.match(await line.textContent(), /^Reconnecting in \d+ s, since \d/));

  // Another host on the same store makes orders, and one that was shown is fired there.
  await makeOrders(stateDir, 5);
  const other = await Host.start({ stateDir, every: "1h" });
  await change(other, last, "fired");
  await other.stop();
  setting.host = await Host.start({ stateDir, every: "1h", listen: address });

  for (const page of pages) {
    await status(page, "open");
    await assertCaughtUp(page);
  }
  await assertSame();
});

setting.pages("the network forwards nothing, and closes nothing", 2, {}, async (pages) => {
  const proxy = await Proxy.start(setting.host.url);
  try {
    const assertSame = await openAll(pages, proxy.url);
    const last = (await shownIds(pages[0])).at(-1);
    proxy.freeze();
    const frozen = Date.now();
    await change(setting.host, last, "fired");
    for (const page of pages) await status(page, "reconnecting");
    const noticed = Date.now() - frozen;
    assert.ok(noticed < NOTICED + 1_000, `noticed after ${noticed} ms`);

    const { address } = setting.host;
    await setting.host.kill();
    await makeOrders(setting.stateDir, 3);
    setting.host = await Host.start({ stateDir: setting.stateDir, every: "1h", listen: address });
    proxy.heal();
    for (const page of pages) {
      await status(page, "open");
      await assertCaughtUp(page);
    }
    await assertSame();
  } finally {
    await proxy.stop();
  }
});

setting.page("no WebSocket gets through, until one does", {}, async (page) => {
  const proxy = await Proxy.start(setting.host.url);
  try {
    proxy.refuse = /^GET \/api\/ws/;
    const assertSame = await openAll([page], proxy.url);
    assert.equal(await page.locator("#status").getAttribute("data-kind"), "stream");

    // News comes, and a step that is taken here is taken.
    const [first, second] = await shownIds(page);
    await change(setting.host, first, "cancelled");
    await shownAs(page, first, "cancelled", 2_000);
    await ticket(page, second).locator(".onwards").click();
    await eventually(async () =>
      assert.equal((await setting.host.orders(second - 1))[0].status, "fired"),
    );
    // One that is impossible is refused here, too.
    await change(setting.host, second, "fulfilled");
    await shownAs(page, second, "fulfilled", 2_000);

    // It is noticed when this way fails as well, and what was missed is fetched.
    const { address } = setting.host;
    await setting.host.kill();
    await status(page, "reconnecting");
    await makeOrders(setting.stateDir, 3);
    setting.host = await Host.start({ stateDir: setting.stateDir, every: "1h", listen: address });
    await status(page, "open");
    await assertCaughtUp(page);

    proxy.refuse = null;
    await eventually(async () => {
      // The reader comes back to the tab: reason enough to try again at once.
      await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      assert.equal(await page.locator('#status[data-state="open"]').getAttribute("data-kind"), "socket");
    });
    await assertSame();
  } finally {
    await proxy.stop();
  }
});

setting.page("back online, it does not wait", {}, async (page) => {
  const proxy = await Proxy.start(setting.host.url);
  try {
    await open(page, proxy.url);
    // A minute of failures makes the waits long.
    await page.clock.install();
    proxy.refuse = /./;
    proxy.heal();
    await status(page, "reconnecting");
    await page.clock.runFor(60_000);
    proxy.refuse = null;
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await status(page, "open");
  } finally {
    await proxy.stop();
  }
});
