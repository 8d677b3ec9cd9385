// Tickets move on: on every screen, by any hand, and only as the service lets them.

import assert from "node:assert/strict";

import { Proxy } from "./proxy.mjs";
import { eventually, open, shownAs, shownIds, statuses, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 30 });

/** The latest orders that nothing was done to yet, oldest first. */
async function untouched(count) {
  const orders = (await setting.host.orders()).slice(-12);
  const ids = orders.filter(({ status }) => status === "received").map(({ id }) => id);
  assert.ok(ids.length >= count, `the tests before left only ${ids}`);
  return ids.slice(-count);
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
  await open(one, setting.host.url);
  await open(other, setting.host.url);
  const ids = await untouched(4);
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
    await eventually(async () =>
      assert.equal(await notice.textContent(), `Order ${id} is fulfilled: it cannot become cancelled`),
    );
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
  const outline = await ticket(page, newer).evaluate((it) => getComputedStyle(it).outlineStyle);
  assert.equal(outline, "solid", "and is seen");
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

setting.page("older orders are there for who looks back", { reducedMotion: "reduce" }, async (page, problems) => {
  await open(page, setting.host.url);
  const ids = await shownIds(page);
  assert.equal(ids.length, 12);
  const older = page.getByRole("button", { name: "Older" });
  const newest = page.getByRole("button", { name: "Newest" });
  assert.equal(await newest.isVisible(), false);

  const first = (await setting.host.orders())[0].id;
  await eventually(async () => {
    if (await older.isVisible()) await older.click();
    const shown = await shownIds(page);
    assert.equal(shown[0], first);
    assert.equal(shown.length, ids.at(-1) - first + 1);
  });
  await eventually(async () => {
    await page.keyboard.press("Home");
    assert.equal(await ticket(page, first).evaluate(isInView), true);
  });

  await newest.click();
  await eventually(async () => assert.deepEqual(await shownIds(page), ids));
  assert.equal(await ticket(page, ids.at(-1)).evaluate(isInView), true);
  assert.equal(await newest.isVisible(), false);
  assert.deepEqual(problems, []);
});

setting.page("without any connection a step goes back", {}, async (page) => {
  await open(page, setting.host.url);
  const [id] = (await setting.host.orders()).slice(-12).filter(({ status }) => status === "received").map(({ id }) => id);
  await page.context().setOffline(true);
  // What is sent into a socket that is dead, without knowing it, is looked into.
  await ticket(page, id).locator(".onwards").click();
  await shownAs(page, id, "fired", 1_000);
  await page.context().setOffline(false);
  await eventually(async () => assert.equal((await statuses(page))[id], await stored(id)));
});

/** Whether an element is in the window, from side to side. Runs in the page. */
function isInView(element) {
  const { left, right } = element.getBoundingClientRect();
  return left > -1 && right < innerWidth + 1;
}
