// Nothing is lost, whatever way there is and whatever is not told. What happens when
// the host or the network is away, away.test.mjs shows.

import assert from "node:assert/strict";

import { deliverOrders, Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertCaughtUp, eventually, open, openAll, shownAs, shownIds, status, statuses, ticket } from "./rail.mjs";
import { Setting } from "./setting.mjs";

const setting = new Setting({ stock: 15 });

setting.page("no WebSocket gets through, until one does", {}, async (page, problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  proxy.refuse = /^GET \/api\/ws/;
  const assertSame = await openAll([page], proxy.url);
  assert.equal(await page.locator("#status").getAttribute("data-kind"), "stream");

  // A new order comes by itself: neither is it asked for, nor do answers to pings bring it.
  await page.route(/\/api\/orders\?limit=1$/, (route) => route.fulfill({ json: { orders: [] } }));
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  await deliverOrders(setting.host, setting.stateDir, 1);
  await ticket(page, await setting.host.newest()).waitFor();
  assert.deepEqual(asked.filter((url) => url.includes("/api/orders?after=")), []);
  await page.unroute(/\/api\/orders\?limit=1$/);

  // So do changes, and a step that is taken here is taken.
  const [first, second] = (await shownIds(page)).slice(-2);
  await setting.host.change(first, "cancelled");
  await shownAs(page, first, "cancelled");
  // Without a pointer: to make room for one, the browser's driver may scroll the rail.
  await ticket(page, second).locator(".onwards").evaluate((button) => button.click());
  await eventually(async () =>
    assert.equal((await setting.host.orders(second - 1))[0].status, "fired"),
  );
  await setting.host.change(second, "fulfilled");
  await shownAs(page, second, "fulfilled");

  // So is one that another screen was faster than.
  const third = (await shownIds(page)).at(-3);
  await page.route(`**/api/orders/${third}/status`, async (route) => {
    await setting.host.change(third, "cancelled");
    await route.continue();
  });
  const told = page.getByText(`Order ${third} is cancelled`).waitFor();
  await ticket(page, third).locator(".onwards").evaluate((button) => button.click());
  await told;
  await shownAs(page, third, "cancelled");

  // It is noticed when this way fails as well, and what was missed is fetched.
  const { address } = setting.host;
  await setting.host.kill();
  await status(page, "reconnecting");
  await makeOrders(setting.stateDir, 3);
  setting.host = await Host.start({ stateDir: setting.stateDir, every: "1h", listen: address });
  await status(page, "open");
  await assertCaughtUp(page, setting.host);

  proxy.refuse = null;
  await eventually(async () => {
    // The reader comes back to the tab: reason enough to try again at once.
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    assert.equal(await page.locator('#status[data-state="open"]').getAttribute("data-kind"), "socket");
  });
  await assertSame();
});

setting.page("a quick second step does not overtake the first", {}, async (page, problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  proxy.refuse = /^GET \/api\/ws/;
  await open(page, proxy.url);
  const ids = await shownIds(page);
  const at = await statuses(page);
  const id = ids.findLast((id) => at[id] === "received");
  let requests = 0;
  await page.route(`**/api/orders/${id}/status`, async (route) => {
    requests += 1;
    if (requests === 1) await new Promise((resolve) => setTimeout(resolve, 300));
    await route.continue();
  });
  await ticket(page, id).locator(".paper").focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  await eventually(async () => assert.equal((await setting.host.orders(id - 1))[0].status, "fulfilled"));
  await shownAs(page, id, "fulfilled");
  assert.equal(await page.locator("#notice").textContent(), "");
  assert.deepEqual(problems.filter((problem) => !problem.includes("/api/ws")), []);
});

setting.page("what could not be published is found out", {}, async (page, problems, later) => {
  const options = ["--variable", "grip_url=http://127.0.0.1:9"];
  const { stateDir } = setting;
  const host = await Host.start({ stateDir, every: "1h", options });
  later(() => host.stop());
  await makeOrders(stateDir, 2);
  await page.clock.install();
  await open(page, host.url);
  const [first, second] = (await shownIds(page)).slice(-2);
  for (const [id, look] of [
    [first, () => page.clock.fastForward(61_000)],
    [second, () => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")))],
  ]) {
    const newest = await host.newest();
    await host.change(id, "cancelled");
    // By a host that nobody listens to, either.
    await makeOrders(stateDir, 1);
    await look();
    await shownAs(page, id, "cancelled", 5_000);
    await ticket(page, newest + 1).waitFor();
  }
});

setting.page("back online, it does not wait", {}, async (page, problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  await page.clock.install();
  await open(page, proxy.url);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  // From now on no time passes in the page: what it does, it does not do after a wait.
  await page.clock.pauseAt(Date.now() + 60_000);
  const line = page.locator("#status");
  await eventually(async () => assert.match(await line.textContent(), /^Reconnecting in \d+ s/));
  proxy.refuse = null;
  const wake = () => page.evaluate(() => dispatchEvent(new Event("online")));
  await wake();
  await status(page, "open");

  // The same when the reader comes back to the tab.
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  await eventually(async () => assert.match(await line.textContent(), /^Reconnecting in \d+ s/));
  proxy.refuse = null;
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await status(page, "open");

  // Nor for a try that began when the network was away.
  proxy.freeze();
  await page.clock.runFor(10_000);
  await eventually(async () => {
    await page.clock.runFor(500);
    assert.match(await line.textContent(), /^Reconnecting since/);
  });
  await page.clock.runFor(2_000);
  proxy.renew();
  await wake();
  await status(page, "open");
});

setting.page("without a network it says so, and since when", {}, async (page, problems, later) => {
  const proxy = await Proxy.start(setting.host.url);
  later(() => proxy.stop());
  await page.clock.install();
  await open(page, proxy.url);
  const line = page.locator("#status");
  await page.context().setOffline(true);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "offline");
  assert.match(await line.textContent(), /^Offline since \d/);
  // No time passes in the page: it does not wait.
  await page.clock.pauseAt(Date.now() + 60_000);
  assert.equal(await line.getAttribute("data-state"), "offline");
  proxy.refuse = null;
  await page.context().setOffline(false);
  await status(page, "open");
});
