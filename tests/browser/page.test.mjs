// The page in a real browser: receipts that come with it, and orders that come later.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { launch, withPage } from "./browser.mjs";
import { Host } from "./host.mjs";

/** The longest pause between two orders is 6 s; the rest is for a busy machine. */
const NEXT_ORDER = 30_000;
/** For a whole test: a few orders, and a host that starts again. */
const timeout = 180_000;

let stateDir;
let host;
let browser;

before(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "socket-burger-"));
  host = await Host.start({ stateDir });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await host?.stop();
  await rm(stateDir, { recursive: true, force: true });
});

/** A test with a page of its own; the host's log goes with a failure. */
function pageTest(name, options, use) {
  test(name, { timeout }, async () => {
    try {
      await withPage(browser, name.replaceAll(/\W+/g, "-"), options, use);
    } catch (error) {
      console.error(`the host said:\n${host.log}`);
      throw error;
    }
  });
}

pageTest("a new order arrives over the socket, without a reload", {}, async (page, problems) => {
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
  pageTest(name, { javaScriptEnabled }, async (page, problems) => {
    // The test before saw orders, so there are some now.
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

pageTest("the page catches up after the host was away", {}, async (page) => {
  await page.addInitScript(rememberRails);
  await page.goto(host.url);
  await status(page, "open");
  const documentBefore = await page.evaluateHandle(() => document);
  const last = (await shownIds(page)).at(-1);

  const address = host.address;
  await host.stop();
  await status(page, "reconnecting");
  host = await Host.start({ stateDir, listen: address });
  await status(page, "open");

  // A host makes an order when it starts, before the page is connected again.
  await receiptOf(page, last + 1);
  await receiptOf(page, last + 2);
  assert.ok(await documentBefore.evaluate((it) => it === document), "the page was reloaded");
  assertEachOnceInOrder(await page.evaluate(() => globalThis.rails));
  assertWithoutGaps(await shownIds(page));
});

/** Waits until the page says that its connection is in `state`. */
async function status(page, state) {
  const line = page.locator(`#status[data-state="${state}"]`);
  await line.waitFor({ state: "attached", timeout: NEXT_ORDER });
}

/** Waits for the next new order on a socket. */
async function nextOrder(socket) {
  let order;
  await socket.waitForEvent("framereceived", {
    timeout: NEXT_ORDER,
    predicate: ({ payload }) => {
      const { event, detail } = JSON.parse(payload);
      if (event !== "order-received") return false;
      order = detail.order;
      return true;
    },
  });
  return order;
}

/** Waits until an order's receipt hangs on the rail where a reader sees it. */
async function receiptOf(page, id) {
  const receipt = page.locator(`#rail > [data-id="${id}"]`);
  await receipt.waitFor({ timeout: NEXT_ORDER });
  return receipt;
}

function shownIds(page) {
  const receipts = page.locator("#rail > [data-id]");
  return receipts.evaluateAll((elements) => elements.map(({ dataset }) => Number(dataset.id)));
}

function assertEachOnceInOrder(rails) {
  assert.ok(rails.length > 0, "no rail was seen");
  for (const ids of rails) {
    const expected = [...new Set(ids)].sort((a, b) => a - b);
    assert.deepEqual(ids, expected, "ids are unique and rise");
  }
}

function assertWithoutGaps(ids) {
  assert.deepEqual(ids, ids.map((_, index) => ids[0] + index), "no order is missing");
}

// The functions below run in the page.

/** Remembers the ids on the rail after each change to the document. */
function rememberRails() {
  globalThis.rails = [];
  new MutationObserver(() => {
    const receipts = document.querySelectorAll("#rail > [data-id]");
    globalThis.rails.push([...receipts].map(({ dataset }) => Number(dataset.id)));
  }).observe(document, { childList: true, subtree: true });
}

/** What a receipt says, in the shape of an order. */
function readReceipt(receipt) {
  const text = (selector) => receipt.querySelector(selector).textContent;
  const lines = (parent, selector) =>
    [...parent.querySelectorAll(selector)].map(({ textContent }) => textContent);
  return {
    id: Number(receipt.dataset.id),
    status: receipt.dataset.status,
    timestamp: receipt.querySelector("time").dateTime,
    heading: text("h2"),
    destination: text(".destination"),
    items: [...receipt.querySelectorAll(".items > li")].map((item) => ({
      name: item.firstChild.textContent.replace(/^1 /, ""),
      substitutions: lines(item, ".substitutions > li"),
    })),
    notes: lines(receipt, ".notes > li"),
  };
}
