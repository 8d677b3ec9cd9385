// Receipts in the page's HTML, and new orders.

import assert from "node:assert/strict";

import { Host } from "./host.mjs";
import {
  assertEachOnceInOrder,
  assertWithoutGaps,
  nextOrder,
  readReceipt,
  receiptOf,
  recordRails,
  shownIds,
  status,
} from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const fixture = new Fixture({ every: "2s..6s" });
/** A host that makes no new orders. */
const idle = new Fixture({ stock: 3 });

fixture.page("a new order arrives over the socket, without a reload", {}, async (page, problems) => {
  const { host } = fixture;
  await page.addInitScript(recordRails);
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
    const stored = await host.fetch(`/api/orders?after=${order.id - 1}&limit=1`);
    assert.deepEqual(await stored.json(), { orders: [order] }, "it was stored before it was published");

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
  assert.equal(sockets.length, 1, "the socket stays open");
  assert.ok(events.includes("pong"), `no pong among ${events}`);
  assert.deepEqual(problems, []);
});

for (const javaScriptEnabled of [false, true]) {
  const name = `receipts are in the HTML, JavaScript ${javaScriptEnabled ? "on" : "off"}`;
  idle.page(name, { javaScriptEnabled }, async (page, problems) => {
    const { host } = idle;
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
    // With JavaScript, the content of <noscript> is text.
    assert.equal(await page.locator("noscript .status").isVisible(), !javaScriptEnabled);
    assert.deepEqual(problems, []);
  });
}

fixture.page("the page catches up after the host was restarted", {}, async (page) => {
  const { host, stateDir } = fixture;
  await page.addInitScript(recordRails);
  await page.goto(host.url);
  await status(page, "open");
  const documentBefore = await page.evaluateHandle(() => document);
  const last = (await shownIds(page)).at(-1);

  const address = host.address;
  await host.stop();
  await status(page, "reconnecting");
  fixture.host = await Host.start({ stateDir, every: "2s..6s", listen: address });
  await status(page, "open");

  // The host makes an order at its start, before the page reconnects.
  await receiptOf(page, last + 1);
  await receiptOf(page, last + 2);
  assert.ok(await documentBefore.evaluate((it) => it === document), "the page was reloaded");
  assertEachOnceInOrder(await page.evaluate(() => globalThis.rails));
  assertWithoutGaps(await shownIds(page));
});
