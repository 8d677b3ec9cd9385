// What tests see of the page: its rail, its receipts, its status line.

import assert from "node:assert/strict";

/** The longest pause between two orders is 6 s; the rest is for a busy machine. */
export const NEXT_ORDER = 30_000;

/** Waits until the page says that its connection is in `state`. */
export async function status(page, state) {
  const line = page.locator(`#status[data-state="${state}"]`);
  await line.waitFor({ state: "attached", timeout: NEXT_ORDER });
}

/** Waits for the next new order on a socket. */
export async function nextOrder(socket) {
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
export async function receiptOf(page, id) {
  const receipt = page.locator(`#rail > [data-id="${id}"]`);
  await receipt.waitFor({ timeout: NEXT_ORDER });
  return receipt;
}

export function shownIds(page) {
  const receipts = page.locator("#rail > [data-id]");
  return receipts.evaluateAll((elements) => elements.map(({ dataset }) => Number(dataset.id)));
}

export function assertEachOnceInOrder(rails) {
  assert.ok(rails.length > 0, "no rail was seen");
  for (const ids of rails) {
    const expected = [...new Set(ids)].sort((a, b) => a - b);
    assert.deepEqual(ids, expected, "ids are unique and rise");
  }
}

export function assertWithoutGaps(ids) {
  assert.deepEqual(ids, ids.map((_, index) => ids[0] + index), "no order is missing");
}

/** The receipt of an order, whether it is there or not. */
export function ticket(page, id) {
  return page.locator(`#rail > [data-id="${id}"]`);
}

/** Waits until an order is shown in `status`. */
export async function shownAs(page, id, status, timeout = 10_000) {
  await page.locator(`#rail > [data-id="${id}"][data-status="${status}"]`).waitFor({ timeout });
}

/** Waits until no ticket has come or gone for so long that a pointer is heard again. */
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

/**
 * Promises when, in ms since the epoch by the page's own clock, an order is shown in
 * `status`.
 */
export async function shownAt(page, id, status) {
  const seen = await page.evaluateHandle(
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
  return () => seen.evaluate(({ at }) => at);
}

/** The statuses of all that is shown, by id. */
export function statuses(page) {
  const receipts = page.locator("#rail > [data-id]");
  return receipts.evaluateAll((elements) =>
    Object.fromEntries(elements.map(({ dataset }) => [dataset.id, dataset.status])),
  );
}

/** Opens the page, connected, with receipts that have come to rest. */
export async function open(page, url) {
  await page.goto(url);
  await status(page, "open");
}

/** Opens both, and makes sure later that what was opened is what is there. */
export async function openAll(pages, url) {
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

/** Waits until `check` does not fail any more. */
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

/** Remembers the ids on the rail after each change to the document. */
export function rememberRails() {
  globalThis.rails = [];
  new MutationObserver(() => {
    const receipts = document.querySelectorAll("#rail > [data-id]");
    globalThis.rails.push([...receipts].map(({ dataset }) => Number(dataset.id)));
  }).observe(document, { childList: true, subtree: true });
}

/** What a receipt says, in the shape of an order. */
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

/** Whether an element is in the window, from side to side. */
export function isInView(element) {
  const { left, right } = element.getBoundingClientRect();
  return left > -1 && right < innerWidth + 1;
}

/** The ids of the tickets that are in the window, at least in part. */
export function inView() {
  return [...document.querySelectorAll("#rail > [data-id]")]
    .filter((it) => it.getBoundingClientRect().right > 1 && it.getBoundingClientRect().left < innerWidth - 1)
    .map(({ dataset }) => Number(dataset.id));
}

/** The oldest of them. */
export function leftmost() {
  const all = [...document.querySelectorAll("#rail > [data-id]")];
  return Number(all.find((it) => it.getBoundingClientRect().right > 1).dataset.id);
}
