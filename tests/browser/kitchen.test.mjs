// Tickets move on: on every screen, by any hand, and only as the service lets them.

import assert from "node:assert/strict";

import { deliverOrders, Host, makeOrders, newState, removeState } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertWithoutGaps, eventually, open, shownAs, shownIds, status, statuses, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 50 });

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
  await ticket(one, id).getByRole("button", { name: "Fire" }).click();
  await shownAs(one, id, "fired");
  await shownAs(other, id, "fired", 1_000);
  await ticket(other, id).getByRole("button", { name: "Fulfil" }).click();
  await shownAs(one, id, "fulfilled", 1_000);
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

setting.pages("who comes too late is told, and sees what is", 2, {}, async ([one, late], problems) => {
  const proxy = await Proxy.start(setting.host.url);
  try {
    await open(one, setting.host.url);
    await open(late, proxy.url);
    const [id] = await untouched(1);
    await ticket(one, id).locator(".onwards").click();
    await shownAs(late, id, "fired");

    proxy.freeze();
    await ticket(late, id).locator(".cancel").click();
    await shownAs(late, id, "cancelled", 1_000);
    await ticket(one, id).locator(".onwards").click();
    await shownAs(one, id, "fulfilled");
    proxy.thaw();

    await shownAs(late, id, "fulfilled");
    const notice = late.getByRole("alert");
    await eventually(async () => assert.equal(await notice.textContent(), `Order ${id} is fulfilled`));
    assert.deepEqual(problems, []);
  } finally {
    await proxy.stop();
  }
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
  const [other] = await untouched(1);
  await ticket(page, other).locator(".cancel").focus();
  await page.keyboard.press("Enter");
  await shownAs(page, other, "cancelled");
  await eventually(async () => assert.equal(await focused(), other));

  await page.keyboard.press("?");
  const dialog = page.getByRole("dialog", { name: "Keys" });
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal(await focused(), other);
  assert.deepEqual(problems, []);
});

setting.page("a press is one step, however long it lasts, and two in a row are one", {}, async (page, problems) => {
  await open(page, setting.host.url);
  const [onPaper, onButton, clicked, last] = await untouched(4);
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

/** Runs `use(host, stateDir)` with another host that has `count` orders, or, of many, at least so many. */
async function withHost(count, use) {
  const stateDir = await newState();
  let host;
  try {
    const isFew = count < 50;
    if (!isFew) await makeOrders(stateDir, count);
    host = await Host.start({ stateDir, every: "1h", timers: isFew ? count : 1 });
    while ((await host.newest()) < 99 + count);
    await use(host, stateDir);
  } finally {
    await host?.stop();
    await removeState(stateDir);
  }
}

setting.page("the focus stays on its ticket, and leaves it carefully", { reducedMotion: "reduce" }, async (page) => {
  await withHost(15, async (host, stateDir) => {
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
});

setting.page("nothing is older than the first, and what comes is seen", { reducedMotion: "reduce" }, async (page, problems) => {
  await withHost(3, async (host, stateDir) => {
    await open(page, host.url);
    const older = page.getByRole("button", { name: "Older" });
    const newest = page.locator("#newest");
    assert.equal(await older.isVisible(), false);
    for (let presses = 0; presses < 8; presses += 1) await page.keyboard.press("ArrowLeft");
    await page.evaluate(() => document.activeElement.blur());
    await deliverOrders(host, stateDir, 12);
    const last = await host.newest();
    await eventually(async () => assert.equal(await ticket(page, last).evaluate(isInView), true));
    assert.equal((await shownIds(page)).length, 12);
    assert.equal(await newest.isVisible(), false);
    assert.equal(await older.isVisible(), true);
    assert.deepEqual(problems, []);
  });
});

setting.page("the last thousand are there for who looks back", { reducedMotion: "reduce" }, async (page, problems) => {
  await withHost(1_100, async (host, stateDir) => {
    await open(page, host.url);
    const ids = await shownIds(page);
    const first = (await host.orders())[0].id;
    assert.ok(ids.at(-1) - first === 999, `${first} to ${ids.at(-1)} are stored`);
    const title = await page.title();
    const older = page.getByRole("button", { name: "Older" });
    const newest = page.locator("#newest");
    assert.equal(await newest.isVisible(), false);

    // A step at a time, each of which shows what comes before.
    for (let clicks = 0; clicks < 8; clicks += 1) {
      const before = await page.evaluate(leftmost);
      await older.click();
      await eventually(async () => assert.ok((await page.evaluate(leftmost)) < before));
      assertWithoutGaps(await page.evaluate(inView));
    }
    assert.equal(await newest.textContent(), "Newest ›");

    // And to the very first, without a document that grows and grows.
    await eventually(async () => {
      await page.keyboard.press("Home");
      assert.ok((await page.locator("#rail *").count()) < 3_000);
      assert.ok((await shownIds(page)).length < 60);
      assert.equal(await page.evaluate(leftmost), first);
    }, 60_000);
    assertWithoutGaps(await page.evaluate(inView));
    await eventually(async () => assert.equal(await older.isVisible(), false));
    await page.keyboard.press("ArrowLeft");
    assert.equal(await page.title(), title, "those that wait among the newest");

    // What comes meanwhile moves nothing, and is counted.
    const seen = await page.evaluate(inView);
    await deliverOrders(host, stateDir, 3);
    await eventually(async () => assert.equal(await newest.textContent(), "3 new ›"));
    const kept = (id) => id > first + 2;
    assert.deepEqual((await page.evaluate(inView)).filter(kept).slice(0, 2), seen.filter(kept).slice(0, 2));

    const [left, right] = await Promise.all([page.locator("#kitchen").boundingBox(), newest.boundingBox()]);
    assert.ok(left.x + left.width - (right.x + right.width) < 40, "the way to the newest is at the right");
    await newest.click();
    const latest = ids.map((id) => id + 3);
    await eventually(async () => assert.deepEqual(await shownIds(page), latest));
    assert.equal(await ticket(page, latest.at(-1)).evaluate(isInView), true);
    assert.equal(await newest.isVisible(), false);
    assert.ok((await older.boundingBox()).x < 40, "the way to older ones is at the left");
    assert.deepEqual(problems, []);
  });
});

setting.page("who looked back and went away leaves the newest", { reducedMotion: "reduce" }, async (page) => {
  await page.clock.install();
  await open(page, setting.host.url);
  const newest = page.locator("#newest");
  await page.getByRole("button", { name: "Older" }).click();
  await newest.waitFor();
  await page.clock.fastForward(60_000);
  await page.keyboard.press("Shift");
  await page.clock.fastForward(60_000);
  assert.equal(await newest.isVisible(), true, "a hand was here a minute ago");
  await page.clock.fastForward(60_000);
  await newest.waitFor({ state: "hidden" });
  await eventually(async () => assert.equal((await shownIds(page)).length, 12));
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
  assert.match(await looks(), / on /);
  assert.match(off, / off/);
  await deliverOrders(setting.host, setting.stateDir, 1);
  await ticket(page, await setting.host.newest()).waitFor();
  assert.deepEqual(problems, [], "nor does it try to sound before it may");
});

setting.page("without any connection a step goes back", {}, async (page) => {
  const proxy = await Proxy.start(setting.host.url);
  try {
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
  } finally {
    await proxy.stop();
  }
});

/** Whether an element is in the window, from side to side. Runs in the page. */
function isInView(element) {
  const { left, right } = element.getBoundingClientRect();
  return left > -1 && right < innerWidth + 1;
}

/** The ids of the tickets that are in the window, at least in part. Runs in the page. */
function inView() {
  return [...document.querySelectorAll("#rail > [data-id]")]
    .filter((it) => it.getBoundingClientRect().right > 1 && it.getBoundingClientRect().left < innerWidth - 1)
    .map(({ dataset }) => Number(dataset.id));
}

/** The oldest of them. Runs in the page. */
function leftmost() {
  const all = [...document.querySelectorAll("#rail > [data-id]")];
  return Number(all.find((it) => it.getBoundingClientRect().right > 1).dataset.id);
}
