// Helpers to use and inspect the page.

import assert from "node:assert/strict";

/** The longest pause between orders is 6 s; the rest is a margin for a busy machine. */
const ORDER_TIMEOUT_MS = 30_000;

/** Waits until the page shows `state` as that of its connection. */
export async function status(page, state) {
  const line = page.locator(`#status[data-state="${state}"]`);
  await line.waitFor({ state: "attached", timeout: ORDER_TIMEOUT_MS });
}

/** Waits for the next order on a socket. */
export async function nextOrder(socket) {
  let order;
  await socket.waitForEvent("framereceived", {
    timeout: ORDER_TIMEOUT_MS,
    predicate: ({ payload }) => {
      const { event, detail } = JSON.parse(payload);
      if (event !== "order-received") return false;
      order = detail.order;
      return true;
    },
  });
  return order;
}

/** Waits until an order's receipt is visible. */
export async function receiptOf(page, id) {
  const receipt = page.locator(`#rail > [data-id="${id}"]`);
  await receipt.waitFor({ timeout: ORDER_TIMEOUT_MS });
  return receipt;
}

export function shownIds(page) {
  const receipts = page.locator("#rail > [data-id]");
  return receipts.evaluateAll((elements) => elements.map(({ dataset }) => Number(dataset.id)));
}

export function assertEachOnceInOrder(rails) {
  assert.ok(rails.length > 0, "no changes were recorded");
  for (const ids of rails) {
    const expected = [...new Set(ids)].sort((a, b) => a - b);
    assert.deepEqual(ids, expected, "ids are unique and sorted");
  }
}

export function assertWithoutGaps(ids) {
  assert.deepEqual(ids, ids.map((_, index) => ids[0] + index), "no order is missing");
}

/** Returns a locator of an order's receipt. */
export function ticket(page, id) {
  return page.locator(`#rail > [data-id="${id}"]`);
}

/** Waits until an order is shown in `status`. */
export async function shownAs(page, id, status, timeout = 10_000) {
  await page.locator(`#rail > [data-id="${id}"][data-status="${status}"]`).waitFor({ timeout });
}

/** Waits until the rail has not changed for so long that clicks are no longer ignored. */
export function atRest(page) {
  return page.evaluate(
    () =>
      new Promise((resolve) => {
        let timer;
        const wait = () => {
          clearTimeout(timer);
          timer = setTimeout(resolve, 500);
        };
        new MutationObserver(wait).observe(document.getElementById("rail"), { childList: true });
        wait();
      }),
  );
}

/** Returns a function that resolves to when, by the page's clock, an order was first shown in `status`. */
export async function observeStatus(page, id, status) {
  const handle = await page.evaluateHandle(
    ([id, status]) => {
      const ticket = document.querySelector(`#rail > [data-id="${id}"]`);
      return {
        at: new Promise((resolve) => {
          new MutationObserver(() => {
            if (ticket.dataset.status === status) resolve(Date.now());
          }).observe(ticket, { attributeFilter: ["data-status"] });
        }),
      };
    },
    [id, status],
  );
  return () => handle.evaluate(({ at }) => at);
}

/** Returns the statuses of all receipts by id. */
export function statuses(page) {
  const receipts = page.locator("#rail > [data-id]");
  return receipts.evaluateAll((elements) =>
    Object.fromEntries(elements.map(({ dataset }) => [dataset.id, dataset.status])),
  );
}

/** Opens the page, and waits until it is connected. */
export async function open(page, url) {
  await page.goto(url);
  await status(page, "open");
}

/** Opens the pages, and returns a function that asserts that they were not reloaded. */
export async function openAll(pages, url) {
  const documents = [];
  for (const page of pages) {
    await page.addInitScript(recordRails);
    await open(page, url);
    documents.push(await page.evaluateHandle(() => document));
  }
  return async () => {
    for (const before of documents) {
      assert.ok(await before.evaluate((it) => it === document), "a page was reloaded");
    }
  };
}

/** Waits until a page shows the latest orders, and asserts that it showed each once and in order. */
export async function assertCaughtUp(page, host) {
  const latest = (await host.orders()).slice(-12);
  await eventually(async () => {
    assert.deepEqual(await shownIds(page), latest.map(({ id }) => id));
    for (const { id, status } of latest) await shownAs(page, id, status, 1_000);
  }, 40_000);
  assertWithoutGaps(await shownIds(page));
  const rails = await page.evaluate(() => globalThis.rails);
  assertEachOnceInOrder(rails);
  assertNoneCameBack(rails);
}

/** Asserts that no order returned after it had left the rail. */
function assertNoneCameBack(rails) {
  const seen = new Set();
  let before = new Set();
  for (const ids of rails) {
    for (const id of ids) assert.ok(before.has(id) || !seen.has(id), `order ${id} returned`);
    before = new Set(ids);
    for (const id of ids) seen.add(id);
  }
}

/** Repeats `check` until it passes. */
export async function eventually(check, timeout = 20_000) {
  const end = Date.now() + timeout;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

// The functions below run in the page.

/** Records the ids on the rail after each change of the document. */
export function recordRails() {
  globalThis.rails = [];
  new MutationObserver(() => {
    const receipts = document.querySelectorAll("#rail > [data-id]");
    globalThis.rails.push([...receipts].map(({ dataset }) => Number(dataset.id)));
  }).observe(document, { childList: true, subtree: true });
}

/** Returns the order that a receipt shows. */
export function readReceipt(receipt) {
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

/** Returns whether an element's whole width is in the window. */
export function isInView(element) {
  const { left, right } = element.getBoundingClientRect();
  return left > -1 && right < innerWidth + 1;
}

/** Returns the ids of the tickets that are at least partly in the window. */
export function inView() {
  return [...document.querySelectorAll("#rail > [data-id]")]
    .filter((it) => it.getBoundingClientRect().right > 1 && it.getBoundingClientRect().left < innerWidth - 1)
    .map(({ dataset }) => Number(dataset.id));
}

/** Returns the id of the oldest ticket in the window. */
export function leftmost() {
  const all = [...document.querySelectorAll("#rail > [data-id]")];
  return Number(all.find((it) => it.getBoundingClientRect().right > 1).dataset.id);
}
