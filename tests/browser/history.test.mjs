// Scrolling to older orders, and back to the newest.

import assert from "node:assert/strict";

import { deliverOrders, otherHost, publishOrders } from "./host.mjs";
import { assertWithoutGaps, atRest, eventually, inView, isInView, leftmost, open, shownIds, ticket } from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const fixture = new Fixture({ stock: 50 });

for (const reducedMotion of ["reduce", "no-preference"]) {
  fixture.page(`new orders are visible, and there is no button before the first, motion: ${reducedMotion}`, { reducedMotion }, async (page, problems, defer) => {
    const [host, stateDir] = await otherHost(4, defer);
    await open(page, host.url);
    const older = page.getByRole("button", { name: "Older" });
    const newest = page.locator("#newest");
    assert.equal(await older.isVisible(), false);
    for (let presses = 0; presses < 8; presses += 1) await page.keyboard.press("ArrowLeft");
    await page.evaluate(() => document.activeElement.blur());
    await deliverOrders(host, stateDir, 1);
    await older.waitFor();
    await deliverOrders(host, stateDir, 12);
    const last = await host.newest();
    await eventually(async () => assert.equal(await ticket(page, last).evaluate(isInView), true));
    assert.equal((await shownIds(page)).length, 12);
    assert.equal(await newest.isVisible(), false);
    await older.waitFor();
    assert.deepEqual(problems, []);
  });
}

fixture.page("the last thousand orders can be scrolled to", { reducedMotion: "reduce" }, async (page, problems, defer) => {
  const [host, stateDir] = await otherHost(1_100, defer);
  await open(page, host.url);
  const ids = await shownIds(page);
  const first = (await host.orders())[0].id;
  assert.ok(ids.at(-1) - first === 999, `${first} to ${ids.at(-1)} are stored`);
  const title = await page.title();
  const older = page.getByRole("button", { name: "Older" });
  const newest = page.locator("#newest");
  assert.equal(await newest.isVisible(), false);

  // Each click shows older orders.
  for (let clicks = 0; clicks < 8; clicks += 1) {
    const before = await page.evaluate(leftmost);
    await older.click();
    await eventually(async () => assert.ok((await page.evaluate(leftmost)) < before));
    assertWithoutGaps(await page.evaluate(inView));
  }
  assert.equal(await newest.textContent(), "Newest ›");

  // Up to the oldest order, while the document stays small.
  await eventually(async () => {
    await page.keyboard.press("Home");
    assert.ok((await page.locator("#rail *").count()) < 3_000);
    assert.ok((await shownIds(page)).length < 60);
    assert.equal(await page.evaluate(leftmost), first);
  }, 60_000);
  assertWithoutGaps(await page.evaluate(inView));
  await eventually(async () => assert.equal(await older.isVisible(), false));
  await page.keyboard.press("ArrowLeft");
  assert.equal(await page.title(), title, "the title counts the newest orders only");

  // New orders move nothing, and are counted.
  const visible = await page.evaluate(inView);
  await deliverOrders(host, stateDir, 3);
  await eventually(async () => assert.equal(await newest.textContent(), "3 new ›"));
  const isStored = (id) => id > first + 2;
  assert.deepEqual((await page.evaluate(inView)).filter(isStored).slice(0, 2), visible.filter(isStored).slice(0, 2));

  const [left, right] = await Promise.all([page.locator("#kitchen").boundingBox(), newest.boundingBox()]);
  assert.ok(left.x + left.width - (right.x + right.width) < 40, "the button to the newest is at the right");
  await newest.click();
  const latest = ids.map((id) => id + 3);
  await eventually(async () => assert.deepEqual(await shownIds(page), latest));
  assert.equal(await ticket(page, latest.at(-1)).evaluate(isInView), true);
  assert.equal(await newest.isVisible(), false);
  assert.ok((await older.boundingBox()).x < 40, "the button to older ones is at the left");
  assert.deepEqual(problems, []);
});

fixture.page("without input, the view returns to the newest", { reducedMotion: "reduce" }, async (page) => {
  await page.clock.install();
  await open(page, fixture.host.url);
  const newest = page.locator("#newest");
  await page.getByRole("button", { name: "Older" }).click();
  await newest.waitFor();
  await page.clock.fastForward(60_000);
  await page.keyboard.press("Shift");
  await page.clock.fastForward(60_000);
  assert.equal(await newest.isVisible(), true, "the last input was a minute ago");
  await page.clock.fastForward(60_000);
  await newest.waitFor({ state: "hidden" });
  await eventually(async () => assert.equal((await shownIds(page)).length, 12));
});

fixture.page("without input, the view returns to the top", { reducedMotion: "reduce", viewport: { width: 1280, height: 240 } }, async (page) => {
  await page.clock.install();
  await open(page, fixture.host.url);
  const kitchen = page.locator("#kitchen");
  await kitchen.evaluate((it) => it.scrollTo({ top: 150 }));
  assert.ok((await kitchen.evaluate((it) => it.scrollTop)) > 100, "there is room to scroll");
  await eventually(async () => {
    await page.clock.fastForward(91_000);
    assert.equal(await kitchen.evaluate((it) => it.scrollTop), 0);
  });
});

/** Waits until the rail is at rest, and asserts that it is scrolled by one step from `newest`. */
async function assertOneStepBack(page, newest) {
  await atRest(page);
  const distance = newest - (await page.evaluate(leftmost));
  assert.ok(distance > 6 && distance < 12, `${distance} are newer than the leftmost`);
}

for (const [when, distance] of [["begins", 1], ["ends", 1_023]]) {
  fixture.page(`a click scrolls by one step if older orders arrive as it ${when}`, {}, async (page, _problems, defer) => {
    const [host] = await otherHost(150, defer);
    await page.addInitScript(delayOlderUntil, distance);
    await open(page, host.url);
    const newest = (await shownIds(page)).at(-1);
    await page.getByRole("button", { name: "Older" }).click();
    await eventually(async () => assert.ok((await shownIds(page))[0] < newest - 50, "older orders were fetched"));
    await assertOneStepBack(page, newest);
  });
}

fixture.page("a click scrolls by one step while new orders move the rail", {}, async (page, _problems, defer) => {
  const [host] = await otherHost(30, defer);
  await open(page, host.url);
  const newest = await host.newest();
  const [order] = await host.orders(newest - 1);
  const added = Array.from({ length: 12 }, (_, index) => ({ ...order, id: newest + 1 + index }));
  const click = await page.evaluateHandle(clickOlderWhileRailMoves, newest + 1);
  await publishOrders(host, added);
  await click.evaluate(({ done }) => done);
  await assertOneStepBack(page, newest + 12);
});

fixture.page("arrow keys move by one ticket while older orders arrive", {}, async (page, _problems, defer) => {
  const [host] = await otherHost(150, defer);
  await open(page, host.url);
  const newest = (await shownIds(page)).at(-1);
  const focused = () => page.evaluate(() => Number(document.activeElement.parentElement.dataset.id));
  const distance = async () => (await page.evaluate(leftmost)) - (await focused());
  for (let presses = 0; presses < 10; presses += 1) await page.keyboard.press("ArrowLeft");
  await eventually(async () => assert.ok((await shownIds(page))[0] < newest - 50, "older orders were fetched"));
  await atRest(page);
  assert.equal(await focused(), newest - 9);
  assert.equal(await ticket(page, newest - 9).evaluate(isInView), true);
  assert.ok((await distance()) >= -1);

  // The view follows a key that is held.
  await eventually(async () => {
    await page.keyboard.press("ArrowLeft");
    assert.ok((await focused()) < newest - 40);
    assert.ok((await distance()) < 4);
  });
});

fixture.page("scrolling to the newest arrives while new orders do", {}, async (page) => {
  await page.clock.install();
  let server;
  await page.routeWebSocket(/\/api\/ws$/, (socket) => {
    server = socket;
    socket.connectToServer();
  });
  await open(page, fixture.host.url);
  const newest = page.locator("#newest");
  const kitchen = page.locator("#kitchen");
  await kitchen.evaluate((it) => it.scrollBy({ left: -800, behavior: "instant" }));
  await newest.waitFor();
  let next = (await fixture.host.newest()) + 1;
  const [order] = await fixture.host.orders(next - 2);
  await page.clock.fastForward(60_000);
  // For longer than the animation, an order arrives with nearly every frame.
  await page.clock.fastForward(31_000);
  await eventually(async () => {
    server.send(JSON.stringify({ event: "order-received", detail: { order: { ...order, id: next } } }));
    next += 1;
    assert.equal(await newest.isVisible(), false);
  }, 2_500);

  // Input stops the animation. After the idle time, the view returns again.
  const offset = () => kitchen.evaluate((it) => it.scrollLeft);
  await page.mouse.move(600, 300);
  for (const by of [-800, -300]) {
    // A pending animation frame may undo the first scroll.
    await eventually(async () => {
      await page.mouse.wheel(by, 0);
      assert.ok((await offset()) < -250);
    });
    await newest.waitFor();
    await page.clock.fastForward(91_000);
  }
  await eventually(async () => {
    await page.clock.fastForward(31_000);
    assert.equal(await offset(), 0);
  });
  await newest.waitFor({ state: "hidden" });
});

fixture.page("a button that is hidden passes the focus to the rail", { reducedMotion: "reduce" }, async (page, problems, defer) => {
  const [host] = await otherHost(20, defer);
  await page.addInitScript(scrollOnResponse);
  await open(page, host.url);
  const [older, newest] = [page.locator("#older"), page.locator("#newest")];
  const focused = () => page.evaluate(() => document.activeElement.id);
  await older.waitFor();
  await older.focus();
  while ((await focused()) === "older") await page.keyboard.press("Enter");
  assert.equal(await focused(), "kitchen");
  await older.waitFor({ state: "hidden" });
  await eventually(async () => assert.equal(await page.evaluate(leftmost), 100));
  await newest.focus();
  await page.keyboard.press("Enter");
  await newest.waitFor({ state: "hidden" });
  assert.equal(await focused(), "kitchen");
});

// The functions below run in the page.

/** Clicks the button once order `first` is the oldest and the rail is moving; `done` resolves then. */
function clickOlderWhileRailMoves(first) {
  const [kitchen, rail, older] = ["kitchen", "rail", "older"].map((id) => document.getElementById(id));
  const done = new Promise((resolve) => {
    const click = () => {
      const isOldest = Number(rail.firstElementChild.dataset.id) === first;
      if (isOldest && kitchen.scrollWidth - kitchen.clientWidth >= 20) resolve(older.click());
      else requestAnimationFrame(click);
    };
    click();
  });
  return { done };
}

/** Delays responses with older orders until the kitchen has been scrolled by `distance` px. */
function delayOlderUntil(distance) {
  const { fetch } = globalThis;
  globalThis.fetch = async (...args) => {
    const response = await fetch(...args);
    const kitchen = document.getElementById("kitchen");
    const scrolled = () => new Promise((resolve) => kitchen.addEventListener("scroll", resolve, { once: true }));
    while (String(args[0]).includes("limit=60") && kitchen.scrollLeft > -distance) await scrolled();
    return response;
  };
}

/** Scrolls the kitchen to its end when older orders have been fetched but not rendered. */
function scrollOnResponse() {
  const { fetch } = globalThis;
  globalThis.fetch = async (...args) => {
    const response = await fetch(...args);
    const kitchen = document.getElementById("kitchen");
    const toEnd = () => {
      kitchen.scrollTo({ left: -1e6, behavior: "instant" });
      kitchen.dispatchEvent(new Event("scroll"));
    };
    const json = response.json.bind(response);
    response.json = async () => {
      const orders = await json();
      if (String(args[0]).includes("limit=60")) setTimeout(toEnd);
      return orders;
    };
    return response;
  };
}
