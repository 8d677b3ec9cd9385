// The page in a real browser: receipts that come with it, and orders that come later.

import assert from "node:assert/strict";

import { Host } from "./host.mjs";
import {
  assertEachOnceInOrder,
  assertWithoutGaps,
  nextOrder,
  readReceipt,
  receiptOf,
  rememberRails,
  shownIds,
  status,
} from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ every: "2s..6s" });
/** Where no order comes while what is there is read. */
const still = new Setting({ stock: 3 });

setting.page("a new order arrives over the socket, without a reload", {}, async (page, problems) => {
  const { host } = setting;
  await page.addInitScript(rememberRails);
  const sockets = [];
  const events = [];
  page.on("websocket", (socket) => {
    sockets.push(socket);
    socket.on("framereceived", ({ payload }) => events.push(JSON.parse(payload).event));
  });
  const opened = page.waitForEvent("websocket");
  await page.goto(host.url);
  const socket = await opened;
  assert.equal(socket.url(), `${host.url.replace("http", "ws")}/api/ws`);
  await status(page, "open");
  const documentBefore = await page.evaluateHandle(() => document);

  for (let orders = 0; orders < 2; orders += 1) {
    const order = await nextOrder(socket);
    const stored = await fetch(`${host.url}/api/orders?after=${order.id - 1}&limit=1`);
    assert.deepEqual(await stored.json(), { orders: [order] }, "it was stored before it was sent");

    const receipt = await receiptOf(page, order.id);
    assert.deepEqual(await receipt.evaluate(readReceipt), {
      id: order.id,
      status: order.status,
      timestamp: order.timestamp,
      heading: `Order #: ${order.id}`,
      destination: order.destination,
      items: order.items,
      notes: order.notes,
    });
    assert.equal((await shownIds(page)).at(-1), order.id, "the newest order is the last one");
  }

  assert.ok(await documentBefore.evaluate((it) => it === document), "the page was reloaded");
  assertEachOnceInOrder(await page.evaluate(() => globalThis.rails));
  assert.equal(sockets.length, 1, "one socket lasts");
  assert.ok(events.includes("pong"), `no pong among ${events}`);
  assert.deepEqual(problems, []);
});

for (const javaScriptEnabled of [false, true]) {
  const name = `receipts come with the page, JavaScript ${javaScriptEnabled ? "on" : "off"}`;
  still.page(name, { javaScriptEnabled }, async (page, problems) => {
    const { host } = still;
    const response = await page.goto(host.url);
    assert.equal(response.status(), 200);
    const sent = [...(await response.text()).matchAll(/<li class="receipt" data-id="(\d+)"/g)];
    const ids = sent.map(([, id]) => Number(id));
    assert.ok(ids.length >= 2 && ids.length <= 12, `ids in the HTML: ${ids}`);
    assertEachOnceInOrder([ids]);

    for (const id of ids) {
      const { heading, destination, items } = await (await receiptOf(page, id)).evaluate(readReceipt);
      assert.equal(heading, `Order #: ${id}`);
      assert.match(destination, /^(dining room|takeout|drive thru)$/);
      assert.ok(items.length >= 1 && items.length <= 8, `order ${id} has ${items.length} items`);
    }
    assert.equal(await page.getByText("New orders will appear here").isVisible(), false);
    // With JavaScript, what <noscript> holds is no element.
    assert.equal(await page.locator("noscript .status").isVisible(), !javaScriptEnabled);
    assert.deepEqual(problems, []);
  });
}

setting.page("the page catches up after the host was away", {}, async (page) => {
  const { host, stateDir } = setting;
  await page.addInitScript(rememberRails);
  await page.goto(host.url);
  await status(page, "open");
  const documentBefore = await page.evaluateHandle(() => document);
  const last = (await shownIds(page)).at(-1);

  const address = host.address;
  await host.stop();
  await status(page, "reconnecting");
  setting.host = await Host.start({ stateDir, every: "2s..6s", listen: address });
  await status(page, "open");

  // A host makes an order when it starts, before the page is connected again.
  await receiptOf(page, last + 1);
  await receiptOf(page, last + 2);
  assert.ok(await documentBefore.evaluate((it) => it === document), "the page was reloaded");
  assertEachOnceInOrder(await page.evaluate(() => globalThis.rails));
  assertWithoutGaps(await shownIds(page));
});
