// Tickets move on: on every screen, by any hand, and only as the service lets them.

import assert from "node:assert/strict";

import { deliverOrders, otherHost } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import {
  atRest,
  eventually,
  open,
  shownAs,
  shownAt,
  shownIds,
  status,
  statuses,
  ticket,
} from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 50 });
/** How long, in ms, a blink may take on a busy machine. */
const BLINK = 2_000;

/** The latest orders that nothing was done to yet, oldest first; some are made where that is few. */
async function untouched(count) {
  for (;;) {
    const orders = (await setting.host.orders()).slice(-12);
    const ids = orders.filter(({ status }) => status === "received").map(({ id }) => id);
    if (ids.length >= count) return ids.slice(-count);
    await deliverOrders(setting.host, setting.stateDir, count - ids.length);
  }
}

async function stored(id) {
  const [order] = await setting.host.orders(id - 1);
  return order.status;
}

setting.pages("a ticket fired in one window is fired in the other", 2, {}, async ([one, other], problems) => {
  await open(one, setting.host.url);
  await open(other, setting.host.url);
  const [id] = await untouched(1);
  for (const page of [one, other]) await ticket(page, id).waitFor();
  for (const [here, there, button, status] of [
    [one, other, "Fire", "fired"],
    [other, one, "Fulfil", "fulfilled"],
  ]) {
    await atRest(here);
    const seen = [await shownAt(here, id, status), await shownAt(there, id, status)];
    await ticket(here, id).getByRole("button", { name: button }).click();
    const [at, later] = [await seen[0](), await seen[1]()];
    assert.ok(later - at < BLINK, `seen after ${later - at} ms`);
  }
  assert.equal(await stored(id), "fulfilled");
  assert.deepEqual(problems, []);
});

setting.pages("windows that race end in the same state", 2, {}, async ([one, other], problems) => {
  const ids = await untouched(4);
  await open(one, setting.host.url);
  await open(other, setting.host.url);
  const press = (page, button) =>
    page.evaluate(
      ([ids, button]) => {
        for (const id of ids) document.querySelector(`[data-id="${id}"] ${button}`).click();
      },
      [ids, button],
    );
  await Promise.all([press(one, ".onwards"), press(other, ".onwards")]);
  // Whoever fired first, now one serves and the other takes back.
  await Promise.all([press(one, ".onwards"), press(other, ".cancel")]);
  await eventually(async () => {
    const [seen, seenByOther] = [await statuses(one), await statuses(other)];
    assert.deepEqual(seen, seenByOther);
    for (const id of ids) {
      assert.match(seen[id], /^(fulfilled|cancelled)$/, `order ${id}`);
      assert.equal(await stored(id), seen[id], `order ${id}`);
    }
  });
  // Both wished for that.
  for (const page of [one, other]) assert.doesNotMatch(await page.locator("#notice").textContent(), /fired/);
  assert.deepEqual(problems, []);
});

setting.pages("who comes too late is told, and sees what is", 2, {}, async ([one, late], problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  await open(one, setting.host.url);
  await open(late, proxy.url);
  const [id] = await untouched(1);
  await ticket(late, id).waitFor();
  await atRest(late);
  await atRest(one);
  await ticket(one, id).locator(".onwards").click();
  await shownAs(late, id, "fired");

  proxy.freeze();
  await ticket(late, id).locator(".cancel").click();
  await shownAs(late, id, "cancelled");
  await ticket(one, id).locator(".onwards").click();
  await shownAs(one, id, "fulfilled");
  proxy.thaw();

  await shownAs(late, id, "fulfilled");
  const notice = late.getByRole("alert");
  await eventually(async () => assert.equal(await notice.textContent(), `Order ${id} is fulfilled`));
  assert.deepEqual(problems, []);
});

setting.page("everything by keyboard", { reducedMotion: "reduce" }, async (page, problems) => {
  await open(page, setting.host.url);
  const [older, newer] = await untouched(2);
  const focused = () =>
    page.evaluate(() => Number(document.activeElement.closest("[data-id]")?.dataset.id ?? 0));

  // One stop for all tickets: the bar's buttons, the rail, the newest ticket.
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
  assert.equal(await focused(), newer, "the focus stays");
  const frame = await ticket(page, newer).evaluate((it) => getComputedStyle(it, "::after").borderTopStyle);
  assert.equal(frame, "solid", "and is seen");
  await page.keyboard.press("Enter");
  await shownAs(page, newer, "fulfilled");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Backspace");
  await goTo(older);
  await page.keyboard.press("Backspace");
  await shownAs(page, older, "cancelled");
  await eventually(async () => {
    assert.equal(await stored(newer), "fulfilled", "what is done stays done");
    assert.equal(await stored(older), "cancelled");
  });

  // A button that goes away hands the focus to its ticket.
  const [deleted, other] = await untouched(2);
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
  // All of these were pressed above.
  const listed = (await dialog.locator("kbd").allTextContents()).sort();
  assert.deepEqual(listed, ["?", "Backspace", "Del", "End", "Enter", "Home", "←", "→"]);
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal(await focused(), other);
  assert.deepEqual(problems, []);
});

setting.page("a press is one step, however long it lasts, and two in a row are one", {}, async (page, problems) => {
  await open(page, setting.host.url);
  const [onPaper, onButton, clicked, last] = await untouched(4);
  await ticket(page, last).waitFor();
  await atRest(page);
  for (const [id, selector] of [
    [onPaper, ".paper"],
    [onButton, ".onwards"],
  ]) {
    await ticket(page, id).locator(selector).focus();
    for (let repeats = 0; repeats < 4; repeats += 1) await page.keyboard.down("Enter");
    await page.keyboard.up("Enter");
  }
  await ticket(page, clicked).locator(".onwards").dblclick();
  // What is said on one socket is heard in turn.
  await ticket(page, last).locator(".cancel").evaluate((button) => button.click());
  await eventually(async () => assert.equal(await stored(last), "cancelled"));
  for (const id of [onPaper, onButton, clicked]) assert.equal(await stored(id), "fired", `order ${id}`);
  assert.deepEqual(problems, []);
});

setting.page("the focus stays on its ticket, and leaves it carefully", { reducedMotion: "reduce" }, async (page, problems, later) => {
  const [host, stateDir] = await otherHost(15, later);
  await page.addInitScript(() => {
    globalThis.said = [];
    addEventListener("DOMContentLoaded", () => {
      const region = document.getElementById("announcement");
      new MutationObserver(() => globalThis.said.push(region.textContent)).observe(region, { childList: true });
    });
  });
  await open(page, host.url);
  const focused = () => page.evaluate(() => Number(document.activeElement.closest("[data-id]")?.dataset.id ?? 0));
  const [id] = (await shownIds(page)).slice(-3);
  await ticket(page, id).locator(".paper").focus();
  await deliverOrders(host, stateDir, 4);
  await ticket(page, await host.newest()).waitFor();
  assert.equal(await focused(), id);

  // A hand that was about to press a key does so just when the ticket goes.
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
    // It may be handed over more than once, as they come.
    const said = (await page.evaluate(() => globalThis.said)).join("\n");
    assert.match(said, new RegExp(`Order ${id} has left the rail: now on order \\d+`));
    assert.match(said, new RegExp(`has left the rail: now on order ${await focused()}\\b`));
  });
  const next = await focused();
  await page.waitForTimeout(1_000);
  await page.keyboard.press("Enter");
  await eventually(async () => {
    const [order] = await host.orders(next - 1);
    assert.equal(order.status, "fired", "by the second Enter, not by the first");
  });
});

for (const minutes of [-10, 10]) {
  setting.page(`ages are right where the clock is off by ${minutes} minutes`, {}, async (page) => {
    await page.addInitScript((ms) => {
      const { now } = Date;
      Date.now = () => now() + ms;
    }, minutes * 60_000);
    await open(page, setting.host.url);
    const [id] = await untouched(1);
    const [{ timestamp }] = await setting.host.orders(id - 1);
    await eventually(async () => {
      const age = (Date.now() - Date.parse(timestamp)) / 1000;
      const [min, seconds] = (await ticket(page, id).locator(".age").textContent()).split(":").map(Number);
      assert.ok(Math.abs(min * 60 + seconds - age) < 5, `${min}:${seconds} for ${age} s`);
    });
  });
}

setting.page("the list of keys closes beside it, not on it", {}, async (page) => {
  await open(page, setting.host.url);
  await page.keyboard.press("?");
  const dialog = page.getByRole("dialog", { name: "Keys" });
  const { x, y, height } = await dialog.boundingBox();
  await page.mouse.click(x + 5, y + height / 2);
  assert.equal(await dialog.isVisible(), true);
  await page.mouse.click(x - 20, y + height / 2);
  await dialog.waitFor({ state: "hidden" });
});

setting.page("the chime is found as it was left", {}, async (page, problems) => {
  await open(page, setting.host.url);
  const chime = page.getByRole("button", { name: "Chime", exact: true });
  const looks = () => chime.evaluate((it) => getComputedStyle(it, "::after").content + getComputedStyle(it).backgroundColor);
  const off = await looks();
  await chime.click();
  await page.reload();
  await status(page, "open");
  assert.equal(await chime.getAttribute("aria-pressed"), "true");
  assert.match(await looks(), /: tap to hear/);
  assert.match(off, / off/);
  await deliverOrders(setting.host, setting.stateDir, 1);
  await ticket(page, await setting.host.newest()).waitFor();
  // Whether it may sound is found out by trying to, once.
  const others = problems.filter((problem) => !problem.includes("AudioContext was not allowed to start"));
  assert.deepEqual(others, []);
  assert.ok(problems.length <= 1, `${problems}`);
  await page.locator("h1").click();
  await eventually(async () => assert.match(await looks(), / on /));
  await chime.click();
  assert.equal(await looks(), off);
});

setting.page("without any connection a step goes back", {}, async (page, problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  await open(page, proxy.url);
  const [id] = await untouched(1);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  // It is not told for ever.
  const told = page.getByText(`Order ${id} is as it was: the kitchen cannot be reached`).waitFor();
  await ticket(page, id).locator(".onwards").evaluate((button) => button.click());
  await told;
  await shownAs(page, id, "received");
  assert.equal(await stored(id), "received");
});

setting.page("a tap moves a ticket on", { hasTouch: true, isMobile: true }, async (page, problems) => {
  await open(page, setting.host.url);
  const [id] = await untouched(1);
  await ticket(page, id).waitFor();
  await atRest(page);
  await ticket(page, id).locator(".onwards").tap();
  await shownAs(page, id, "fired");
  await ticket(page, id).locator(".cancel").tap();
  await shownAs(page, id, "cancelled");
  await eventually(async () => assert.equal(await stored(id), "cancelled"));
  assert.deepEqual(problems, []);
});

setting.page("a pointer is not heard under which a ticket has just come", {}, async (page, problems, later) => {
  const [host, stateDir] = await otherHost(5, later);
  await open(page, host.url);
  await atRest(page);
  // Clicks on two tickets at the moment another one comes: by a pointer, and by other means.
  const clicked = page.evaluate(
    () =>
      new Promise((resolve) => {
        const rail = document.getElementById("rail");
        const click = (ticket, detail) => {
          ticket.querySelector(".onwards").dispatchEvent(new MouseEvent("click", { bubbles: true, detail }));
          return Number(ticket.dataset.id);
        };
        new MutationObserver((_, observer) => {
          observer.disconnect();
          const [first, second] = rail.children;
          // What the rail tells of its change comes first.
          queueMicrotask(() => resolve([click(first, 1), click(second, 0)]));
        }).observe(rail, { childList: true });
      }),
  );
  await deliverOrders(host, stateDir, 1);
  const [byPointer, byKey] = await clicked;
  await shownAs(page, byKey, "fired");
  await atRest(page);
  assert.equal((await statuses(page))[byPointer], "received");
  await ticket(page, byPointer).locator(".onwards").click();
  await shownAs(page, byPointer, "fired");
  assert.deepEqual(problems, []);
});

setting.page("keys go to the ticket that was clicked, and it shows", {}, async (page) => {
  await open(page, setting.host.url);
  const [id] = await untouched(1);
  await ticket(page, id).waitFor();
  await atRest(page);
  await ticket(page, id).locator(".destination").click();
  assert.equal(await ticket(page, id).evaluate((it) => getComputedStyle(it, "::after").borderTopStyle), "solid");
  await page.keyboard.press("Backspace");
  await shownAs(page, id, "cancelled");
});
