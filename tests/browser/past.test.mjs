// Looking back at older orders, and what brings the newest back into view.

import assert from "node:assert/strict";

import { deliverOrders, otherHost, publishOrders } from "./host.mjs";
import { assertWithoutGaps, atRest, eventually, inView, isInView, leftmost, open, shownIds, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 50 });

for (const reducedMotion of ["reduce", "no-preference"]) {
  setting.page(`nothing is older than the first, and what comes is seen, motion: ${reducedMotion}`, { reducedMotion }, async (page, problems, later) => {
    const [host, stateDir] = await otherHost(4, later);
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

setting.page("the last thousand are there for who looks back", { reducedMotion: "reduce" }, async (page, problems, later) => {
  const [host, stateDir] = await otherHost(1_100, later);
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

setting.page("who looked down and went away leaves what is above", { reducedMotion: "reduce", viewport: { width: 1280, height: 240 } }, async (page) => {
  await page.clock.install();
  await open(page, setting.host.url);
  const kitchen = page.locator("#kitchen");
  await kitchen.evaluate((it) => it.scrollTo({ top: 150 }));
  assert.ok((await kitchen.evaluate((it) => it.scrollTop)) > 100, "there is something below");
  await eventually(async () => {
    await page.clock.fastForward(91_000);
    assert.equal(await kitchen.evaluate((it) => it.scrollTop), 0);
  });
});

/** Waits until the rail is at rest, and makes sure that what is seen is a step back from `newest`. */
async function assertOneStepBack(page, newest) {
  await atRest(page);
  const seen = newest - (await page.evaluate(leftmost));
  assert.ok(seen > 6 && seen < 12, `${seen} are newer than the leftmost`);
}

for (const [when, distance] of [["begins", 1], ["ends", 1_023]]) {
  setting.page(`a step back is a step, though others come as it ${when}`, {}, async (page, _problems, later) => {
    const [host] = await otherHost(150, later);
    await page.addInitScript(answerAt, distance);
    await open(page, host.url);
    const newest = (await shownIds(page)).at(-1);
    await page.getByRole("button", { name: "Older" }).click();
    await eventually(async () => assert.ok((await shownIds(page))[0] < newest - 50, "they were fetched"));
    await assertOneStepBack(page, newest);
  });
}

setting.page("a step back is a step, though all have just come", {}, async (page, _problems, later) => {
  const [host] = await otherHost(30, later);
  await open(page, host.url);
  const newest = await host.newest();
  const [order] = await host.orders(newest - 1);
  const coming = Array.from({ length: 12 }, (_, index) => ({ ...order, id: newest + 1 + index }));
  const pressed = await page.evaluateHandle(pressOlderWhileRowMoves, newest + 1);
  await publishOrders(host, coming);
  await pressed.evaluate(({ once }) => once);
  await assertOneStepBack(page, newest + 12);
});

setting.page("keys go back a ticket at a time, though others come meanwhile", {}, async (page, _problems, later) => {
  const [host] = await otherHost(150, later);
  await open(page, host.url);
  const newest = (await shownIds(page)).at(-1);
  const focused = () => page.evaluate(() => Number(document.activeElement.parentElement.dataset.id));
  const behind = async () => (await page.evaluate(leftmost)) - (await focused());
  for (let pressed = 0; pressed < 10; pressed += 1) await page.keyboard.press("ArrowLeft");
  await eventually(async () => assert.ok((await shownIds(page))[0] < newest - 50, "they were fetched"));
  await atRest(page);
  assert.equal(await focused(), newest - 9);
  assert.equal(await ticket(page, newest - 9).evaluate(isInView), true);
  assert.ok((await behind()) >= -1);

  // What is seen follows a key that is held.
  await eventually(async () => {
    await page.keyboard.press("ArrowLeft");
    assert.ok((await focused()) < newest - 40);
    assert.ok((await behind()) < 4);
  });
});

setting.page("the newest is reached, whatever comes on the way", {}, async (page) => {
  await page.clock.install();
  let server;
  await page.routeWebSocket(/\/api\/ws$/, (socket) => {
    server = socket;
    socket.connectToServer();
  });
  await open(page, setting.host.url);
  const newest = page.locator("#newest");
  const kitchen = page.locator("#kitchen");
  await kitchen.evaluate((it) => it.scrollBy({ left: -800, behavior: "instant" }));
  await newest.waitFor();
  let next = (await setting.host.newest()) + 1;
  const [order] = await setting.host.orders(next - 2);
  await page.clock.fastForward(60_000);
  // Longer than the motion takes, an order comes with nearly every frame.
  await page.clock.fastForward(31_000);
  await eventually(async () => {
    server.send(JSON.stringify({ event: "order-received", detail: { order: { ...order, id: next } } }));
    next += 1;
    assert.equal(await newest.isVisible(), false);
  }, 2_500);

  // A hand ends the motion. When it is gone for as long, the newest is seen again.
  const offset = () => kitchen.evaluate((it) => it.scrollLeft);
  await page.mouse.move(600, 300);
  for (const by of [-800, -300]) {
    // A frame of the motion may be under way yet, and undo the first of it.
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

setting.page("a way that ends leaves the focus to what it moved", { reducedMotion: "reduce" }, async (page, problems, later) => {
  const [host] = await otherHost(20, later);
  await page.addInitScript(scrollAtAnswer);
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

/** Presses the button when order `first` is the oldest of a row that moves: promised as `once`. */
function pressOlderWhileRowMoves(first) {
  const [kitchen, rail, older] = ["kitchen", "rail", "older"].map((id) => document.getElementById(id));
  const once = new Promise((resolve) => {
    const press = () => {
      const isThere = Number(rail.firstElementChild.dataset.id) === first;
      if (isThere && kitchen.scrollWidth - kitchen.clientWidth >= 20) resolve(older.click());
      else requestAnimationFrame(press);
    };
    press();
  });
  return { once };
}

/** Older orders are there only when the kitchen has been scrolled by `distance` px. */
function answerAt(distance) {
  const { fetch } = globalThis;
  globalThis.fetch = async (...what) => {
    const answer = await fetch(...what);
    const kitchen = document.getElementById("kitchen");
    const scrolled = () => new Promise((resolve) => kitchen.addEventListener("scroll", resolve, { once: true }));
    while (String(what[0]).includes("limit=60") && kitchen.scrollLeft > -distance) await scrolled();
    return answer;
  };
}

/** When older orders are there, but do not hang yet, the kitchen is scrolled to its end. */
function scrollAtAnswer() {
  const { fetch } = globalThis;
  globalThis.fetch = async (...what) => {
    const answer = await fetch(...what);
    const kitchen = document.getElementById("kitchen");
    const toEnd = () => {
      kitchen.scrollTo({ left: -1e6, behavior: "instant" });
      kitchen.dispatchEvent(new Event("scroll"));
    };
    const json = answer.json.bind(answer);
    answer.json = async () => {
      const orders = await json();
      if (String(what[0]).includes("limit=60")) setTimeout(toEnd);
      return orders;
    };
    return answer;
  };
}
