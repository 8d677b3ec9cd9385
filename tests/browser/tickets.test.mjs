// Status changes of tickets, by pointer, touch and keyboard, on several pages.

import assert from "node:assert/strict";

import { deliverOrders, otherHost } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import {
  atRest,
  eventually,
  open,
  shownAs,
  observeStatus,
  shownIds,
  status,
  statuses,
  ticket,
} from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const fixture = new Fixture({ stock: 50 });
/** How soon a change must show on another page, on a busy machine. */
const MAX_DELAY_MS = 2_000;

/** Returns the ids of the latest received orders, oldest first. Makes orders if there are too few. */
async function receivedIds(count) {
  for (;;) {
    const orders = (await fixture.host.orders()).slice(-12);
    const ids = orders.filter(({ status }) => status === "received").map(({ id }) => id);
    if (ids.length >= count) return ids.slice(-count);
    await deliverOrders(fixture.host, fixture.stateDir, count - ids.length);
  }
}

async function storedStatus(id) {
  const [order] = await fixture.host.orders(id - 1);
  return order.status;
}

fixture.pages("a change on one page shows on the other", 2, {}, async ([one, other], problems) => {
  await open(one, fixture.host.url);
  await open(other, fixture.host.url);
  const [id] = await receivedIds(1);
  for (const page of [one, other]) await ticket(page, id).waitFor();
  for (const [here, there, button, status] of [
    [one, other, "Fire", "fired"],
    [other, one, "Fulfil", "fulfilled"],
  ]) {
    await atRest(here);
    const times = [await observeStatus(here, id, status), await observeStatus(there, id, status)];
    await ticket(here, id).getByRole("button", { name: button }).click();
    const delay = (await times[1]()) - (await times[0]());
    assert.ok(delay < MAX_DELAY_MS, `shown after ${delay} ms`);
  }
  assert.equal(await storedStatus(id), "fulfilled");
  assert.deepEqual(problems, []);
});

fixture.pages("concurrent changes end in the same state on all pages", 2, {}, async ([one, other], problems) => {
  const ids = await receivedIds(4);
  await open(one, fixture.host.url);
  await open(other, fixture.host.url);
  const press = (page, button) =>
    page.evaluate(
      ([ids, button]) => {
        for (const id of ids) document.querySelector(`[data-id="${id}"] ${button}`).click();
      },
      [ids, button],
    );
  await Promise.all([press(one, ".advance"), press(other, ".advance")]);
  // Now one page fulfils the orders, and the other cancels them.
  await Promise.all([press(one, ".advance"), press(other, ".cancel")]);
  await eventually(async () => {
    const [shown, shownOnOther] = [await statuses(one), await statuses(other)];
    assert.deepEqual(shown, shownOnOther);
    for (const id of ids) {
      assert.match(shown[id], /^(fulfilled|cancelled)$/, `order ${id}`);
      assert.equal(await storedStatus(id), shown[id], `order ${id}`);
    }
  });
  // Firing was no conflict.
  for (const page of [one, other]) assert.doesNotMatch(await page.locator("#notice").textContent(), /fired/);
  assert.deepEqual(problems, []);
});

fixture.pages("a conflicting change is reverted and reported", 2, {}, async ([one, late], problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  await open(one, fixture.host.url);
  await open(late, proxy.url);
  const [id] = await receivedIds(1);
  await ticket(late, id).waitFor();
  await atRest(late);
  await atRest(one);
  await ticket(one, id).locator(".advance").click();
  await shownAs(late, id, "fired");

  proxy.freeze();
  await ticket(late, id).locator(".cancel").click();
  await shownAs(late, id, "cancelled");
  await ticket(one, id).locator(".advance").click();
  await shownAs(one, id, "fulfilled");
  proxy.thaw();

  await shownAs(late, id, "fulfilled");
  const notice = late.getByRole("alert");
  await eventually(async () => assert.equal(await notice.textContent(), `Order ${id} is fulfilled`));
  assert.deepEqual(problems, []);
});

fixture.page("everything works by keyboard", { reducedMotion: "reduce" }, async (page, problems) => {
  await open(page, fixture.host.url);
  const [older, newer] = await receivedIds(2);
  const focused = () =>
    page.evaluate(() => Number(document.activeElement.closest("[data-id]")?.dataset.id ?? 0));

  // Tab stops: the bar's two buttons, the rail, the newest ticket.
  const ids = await shownIds(page);
  for (let stop = 0; stop < 4; stop += 1) await page.keyboard.press("Tab");
  assert.equal(await focused(), ids.at(-1));
  await page.keyboard.press("Home");
  assert.equal(await focused(), ids[0]);
  await page.keyboard.press("ArrowRight");
  assert.equal(await focused(), ids[1]);
  await page.keyboard.press("End");
  assert.equal(await focused(), ids.at(-1));

  const goTo = async (id) => {
    for (let steps = 0; (await focused()) !== id && steps < 12; steps += 1) {
      await page.keyboard.press("ArrowLeft");
    }
    assert.equal(await focused(), id);
  };
  await goTo(newer);
  await page.keyboard.press("Enter");
  await shownAs(page, newer, "fired");
  assert.equal(await focused(), newer, "the focus stays on the ticket");
  const frame = await ticket(page, newer).evaluate((it) => getComputedStyle(it, "::after").borderTopStyle);
  assert.equal(frame, "solid", "the focus is visible");
  await page.keyboard.press("Enter");
  await shownAs(page, newer, "fulfilled");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Backspace");
  await goTo(older);
  await page.keyboard.press("Backspace");
  await shownAs(page, older, "cancelled");
  await eventually(async () => {
    assert.equal(await storedStatus(newer), "fulfilled", "a final status does not change");
    assert.equal(await storedStatus(older), "cancelled");
  });

  // A hidden button passes the focus to its ticket.
  const [deleted, other] = await receivedIds(2);
  await ticket(page, deleted).locator(".paper").focus();
  await page.keyboard.press("Delete");
  await shownAs(page, deleted, "cancelled");
  await ticket(page, other).locator(".cancel").focus();
  await page.keyboard.press("Enter");
  await shownAs(page, other, "cancelled");
  await eventually(async () => assert.equal(await focused(), other));

  await page.keyboard.press("?");
  const dialog = page.getByRole("dialog", { name: "Keys" });
  await dialog.waitFor();
  // The test above covers all of these.
  const listed = (await dialog.locator("kbd").allTextContents()).sort();
  assert.deepEqual(listed, ["?", "Backspace", "Del", "End", "Enter", "Home", "←", "→"]);
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal(await focused(), other);
  assert.deepEqual(problems, []);
});

fixture.page("a held key and a double click are one change", {}, async (page, problems) => {
  await open(page, fixture.host.url);
  const [onPaper, onButton, clicked, last] = await receivedIds(4);
  await ticket(page, last).waitFor();
  await atRest(page);
  for (const [id, selector] of [
    [onPaper, ".paper"],
    [onButton, ".advance"],
  ]) {
    await ticket(page, id).locator(selector).focus();
    for (let repeats = 0; repeats < 4; repeats += 1) await page.keyboard.down("Enter");
    await page.keyboard.up("Enter");
  }
  await ticket(page, clicked).locator(".advance").dblclick();
  // Messages on a socket are handled in order.
  await ticket(page, last).locator(".cancel").evaluate((button) => button.click());
  await eventually(async () => assert.equal(await storedStatus(last), "cancelled"));
  for (const id of [onPaper, onButton, clicked]) assert.equal(await storedStatus(id), "fired", `order ${id}`);
  assert.deepEqual(problems, []);
});

fixture.page("action keys are ignored for a moment after the focus has moved to another ticket", { reducedMotion: "reduce" }, async (page, problems, defer) => {
  const [host, stateDir] = await otherHost(15, defer);
  await page.addInitScript(() => {
    globalThis.announcements = [];
    addEventListener("DOMContentLoaded", () => {
      const region = document.getElementById("announcement");
      new MutationObserver(() => globalThis.announcements.push(region.textContent)).observe(region, { childList: true });
    });
  });
  await open(page, host.url);
  const focused = () => page.evaluate(() => Number(document.activeElement.closest("[data-id]")?.dataset.id ?? 0));
  const [id] = (await shownIds(page)).slice(-3);
  await ticket(page, id).locator(".paper").focus();
  await deliverOrders(host, stateDir, 4);
  await ticket(page, await host.newest()).waitFor();
  assert.equal(await focused(), id);

  // Presses keys at the moment the ticket leaves.
  await page.evaluate(() =>
    document.addEventListener("focusin", ({ target }) => {
      const key = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
      setTimeout(() => ["Enter", "Backspace"].forEach((it) => target.dispatchEvent(key(it))));
    }),
  );
  await deliverOrders(host, stateDir, 15);
  await ticket(page, await host.newest()).waitFor();
  await eventually(async () => assert.ok((await focused()) > id));
  await eventually(async () => {
    // The focus may move more than once.
    const announcements = (await page.evaluate(() => globalThis.announcements)).join("\n");
    assert.match(announcements, new RegExp(`Order ${id} has left the rail: now on order \\d+`));
    assert.match(announcements, new RegExp(`has left the rail: now on order ${await focused()}\\b`));
  });
  const next = await focused();
  await page.waitForTimeout(1_000);
  await page.keyboard.press("Enter");
  await eventually(async () => {
    const [order] = await host.orders(next - 1);
    assert.equal(order.status, "fired", "fired by the second Enter, not by the first");
  });
});

for (const minutes of [-10, 10]) {
  fixture.page(`ages are correct with a clock that is off by ${minutes} minutes`, {}, async (page) => {
    await page.addInitScript((ms) => {
      const { now } = Date;
      Date.now = () => now() + ms;
    }, minutes * 60_000);
    await open(page, fixture.host.url);
    const [id] = await receivedIds(1);
    const [{ timestamp }] = await fixture.host.orders(id - 1);
    await eventually(async () => {
      const age = (Date.now() - Date.parse(timestamp)) / 1000;
      const [min, seconds] = (await ticket(page, id).locator(".age").textContent()).split(":").map(Number);
      assert.ok(Math.abs(min * 60 + seconds - age) < 5, `${min}:${seconds} for ${age} s`);
    });
  });
}

fixture.page("the list of keys closes by a click beside it", {}, async (page) => {
  await open(page, fixture.host.url);
  await page.keyboard.press("?");
  const dialog = page.getByRole("dialog", { name: "Keys" });
  const { x, y, height } = await dialog.boundingBox();
  await page.mouse.click(x + 5, y + height / 2);
  assert.equal(await dialog.isVisible(), true);
  await page.mouse.click(x - 20, y + height / 2);
  await dialog.waitFor({ state: "hidden" });
});

fixture.page("the chime's setting is stored", {}, async (page, problems) => {
  await open(page, fixture.host.url);
  const chime = page.getByRole("button", { name: "Chime", exact: true });
  const style = () => chime.evaluate((it) => getComputedStyle(it, "::after").content + getComputedStyle(it).backgroundColor);
  const off = await style();
  await chime.click();
  await page.reload();
  await status(page, "open");
  assert.equal(await chime.getAttribute("aria-pressed"), "true");
  assert.match(await style(), /: tap to hear/);
  assert.match(off, / off/);
  await deliverOrders(fixture.host, fixture.stateDir, 1);
  await ticket(page, await fixture.host.newest()).waitFor();
  // The page may try to play a sound once.
  const others = problems.filter((problem) => !problem.includes("AudioContext was not allowed to start"));
  assert.deepEqual(others, []);
  assert.ok(problems.length <= 1, `${problems}`);
  await page.locator("h1").click();
  await eventually(async () => assert.match(await style(), / on /));
  await chime.click();
  assert.equal(await style(), off);
});

fixture.page("without a connection a change is reverted", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  await open(page, proxy.url);
  const [id] = await receivedIds(1);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  // The notice is shown for a limited time, so wait for it from the start.
  const notice = page.getByText(`Order ${id} is unchanged: the kitchen cannot be reached`).waitFor();
  await ticket(page, id).locator(".advance").evaluate((button) => button.click());
  await notice;
  await shownAs(page, id, "received");
  assert.equal(await storedStatus(id), "received");
});

fixture.page("a tap changes the status", { hasTouch: true, isMobile: true }, async (page, problems) => {
  await open(page, fixture.host.url);
  const [id] = await receivedIds(1);
  await ticket(page, id).waitFor();
  await atRest(page);
  await ticket(page, id).locator(".advance").tap();
  await shownAs(page, id, "fired");
  await ticket(page, id).locator(".cancel").tap();
  await shownAs(page, id, "cancelled");
  await eventually(async () => assert.equal(await storedStatus(id), "cancelled"));
  assert.deepEqual(problems, []);
});

fixture.page("a click on a ticket that has just moved is ignored", {}, async (page, problems, defer) => {
  const [host, stateDir] = await otherHost(5, defer);
  await open(page, host.url);
  await atRest(page);
  // Clicks two tickets at the moment another one arrives, one of them by a pointer.
  const clicked = page.evaluate(
    () =>
      new Promise((resolve) => {
        const rail = document.getElementById("rail");
        const click = (ticket, detail) => {
          ticket.querySelector(".advance").dispatchEvent(new MouseEvent("click", { bubbles: true, detail }));
          return Number(ticket.dataset.id);
        };
        new MutationObserver((_, observer) => {
          observer.disconnect();
          const [first, second] = rail.children;
          // After the rail's `render` event.
          queueMicrotask(() => resolve([click(first, 1), click(second, 0)]));
        }).observe(rail, { childList: true });
      }),
  );
  await deliverOrders(host, stateDir, 1);
  const [byPointer, byKey] = await clicked;
  await shownAs(page, byKey, "fired");
  await atRest(page);
  assert.equal((await statuses(page))[byPointer], "received");
  await ticket(page, byPointer).locator(".advance").click();
  await shownAs(page, byPointer, "fired");
  assert.deepEqual(problems, []);
});

fixture.page("a click on a ticket focuses it visibly", {}, async (page) => {
  await open(page, fixture.host.url);
  const [id] = await receivedIds(1);
  await ticket(page, id).waitFor();
  await atRest(page);
  await ticket(page, id).locator(".destination").click();
  assert.equal(await ticket(page, id).evaluate((it) => getComputedStyle(it, "::after").borderTopStyle), "solid");
  await page.keyboard.press("Backspace");
  await shownAs(page, id, "cancelled");
});
