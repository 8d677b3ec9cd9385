// Nothing is lost with any transport, or if orders were not published. For outages of
// the host or the network, see outage.test.mjs.

import assert from "node:assert/strict";

import { deliverOrders, Host, makeOrders } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { assertCaughtUp, eventually, open, openAll, shownAs, shownIds, status, statuses, ticket } from "./page.mjs";
import { Fixture } from "./fixture.mjs";
import { isTls } from "./tls.mjs";

const fixture = new Fixture({ stock: 15 });

fixture.page("an event stream replaces WebSockets while they do not work", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url, { refuse: /^GET \/api\/ws/ });
  defer(() => proxy.stop());
  const assertSame = await openAll([page], proxy.url);
  assert.equal(await page.locator("#status").getAttribute("data-transport"), "stream");

  // The stream delivers a new order, not a request or the response to a ping.
  await page.route(/\/api\/orders\?limit=1$/, (route) => route.fulfill({ json: { orders: [] } }));
  const urls = [];
  page.on("request", (request) => urls.push(request.url()));
  await deliverOrders(fixture.host, fixture.stateDir, 1);
  await ticket(page, await fixture.host.newest()).waitFor();
  assert.deepEqual(urls.filter((url) => url.includes("/api/orders?after=")), []);
  await page.unroute(/\/api\/orders\?limit=1$/);

  // It delivers changes, too, and changes on this page are sent.
  const [first, second] = (await shownIds(page)).slice(-2);
  await fixture.host.change(first, "cancelled");
  await shownAs(page, first, "cancelled");
  // Not by a pointer, for which Playwright may scroll the rail.
  await ticket(page, second).locator(".advance").evaluate((button) => button.click());
  await eventually(async () =>
    assert.equal((await fixture.host.orders(second - 1))[0].status, "fired"),
  );
  await fixture.host.change(second, "fulfilled");
  await shownAs(page, second, "fulfilled");

  // A conflicting change of another client wins.
  const third = (await shownIds(page)).at(-3);
  await page.route(`**/api/orders/${third}/status`, async (route) => {
    await fixture.host.change(third, "cancelled");
    await route.continue();
  });
  const notice = page.getByText(`Order ${third} is cancelled`).waitFor();
  await ticket(page, third).locator(".advance").evaluate((button) => button.click());
  await notice;
  await shownAs(page, third, "cancelled");

  // After the stream is lost as well, the page fetches what it missed.
  const { address } = fixture.host;
  await fixture.host.kill();
  await status(page, "reconnecting");
  await makeOrders(fixture.stateDir, 3);
  fixture.host = await Host.start({ stateDir: fixture.stateDir, every: "1h", listen: address });
  await status(page, "open");
  await assertCaughtUp(page, fixture.host);

  proxy.refuse = null;
  await eventually(async () => {
    // The user returns to the tab, so the page tries a WebSocket at once.
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    assert.equal(await page.locator('#status[data-state="open"]').getAttribute("data-transport"), "socket");
  });
  await assertSame();
});

fixture.page("a second change does not overtake the first", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url, { refuse: /^GET \/api\/ws/ });
  defer(() => proxy.stop());
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
  await eventually(async () => assert.equal((await fixture.host.orders(id - 1))[0].status, "fulfilled"));
  await shownAs(page, id, "fulfilled");
  assert.equal(await page.locator("#notice").textContent(), "");
  assert.deepEqual(problems.filter((problem) => !problem.includes("/api/ws")), []);
});

fixture.page("changes that were not published are fetched", {}, async (page, problems, defer) => {
  const options = ["--variable", "grip_url=http://127.0.0.1:9"];
  const { stateDir } = fixture;
  const host = await Host.start({ stateDir, every: "1h", options });
  defer(() => host.stop());
  await makeOrders(stateDir, 2);
  await page.clock.install();
  await open(page, host.url);
  const [first, second] = (await shownIds(page)).slice(-2);
  for (const [id, triggerRefresh] of [
    [first, () => page.clock.fastForward(61_000)],
    [second, () => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")))],
  ]) {
    const newest = await host.newest();
    await host.change(id, "cancelled");
    // An order that is not published either.
    await makeOrders(stateDir, 1);
    await triggerRefresh();
    await shownAs(page, id, "cancelled", 5_000);
    await ticket(page, newest + 1).waitFor();
  }
});

fixture.page("after a short outage, the page resumes and fetches nothing", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  const assertSame = await openAll([page], proxy.url);
  await page.locator('#status[data-transport="socket"]').waitFor();
  // An order that this host has published, unlike those from before it was started.
  await deliverOrders(fixture.host, fixture.stateDir, 1);
  await ticket(page, await fixture.host.newest()).waitFor();
  const requests = [];
  page.on("request", (request) => requests.push(request.url()));
  // The messages are lost with the connection.
  proxy.freeze();
  // One by one, since the page fetches orders that are published before an earlier one.
  for (let count = 0; count < 3; count += 1) await deliverOrders(fixture.host, fixture.stateDir, 1);
  const changed = (await fixture.host.newest()) - 2;
  await fixture.host.change(changed, "fired");
  proxy.heal();
  await ticket(page, changed + 2).waitFor();
  await shownAs(page, changed, "fired");
  await assertSame();
  assert.deepEqual(requests.filter((url) => url.includes("/api/orders")), []);
});

fixture.page("the page reconnects at once when it is back online", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  await page.clock.install();
  await open(page, proxy.url);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  // Stops the page's clock, so that no timer can cause what follows.
  await page.clock.pauseAt(Date.now() + 60_000);
  const line = page.locator("#status");
  // The clock may have stopped in the middle of an attempt, or with less than a second to wait.
  const waiting = () =>
    eventually(async () => {
      await page.clock.runFor(100);
      assert.match(await line.textContent(), /^Reconnecting in \d+ s/);
    });
  await waiting();
  proxy.refuse = null;
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await status(page, "open");
  // A stream notices a lost connection by a timer, and the page's clock stands still.
  await page.locator('#status[data-transport="socket"]').waitFor();

  // The same when the user returns to the tab.
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "reconnecting");
  await waiting();
  proxy.refuse = null;
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await status(page, "open");

});

// If the network changes, Chromium closes the connection at once, but no test can cause that.
const skip = isTls && "over HTTP/2, a new WebSocket is a stream of the dead connection until Chromium's ping times out";
fixture.page("an attempt that began while offline is repeated when the page is back online", { skip }, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  await page.clock.install();
  await open(page, proxy.url);
  await page.locator('#status[data-transport="socket"]').waitFor();
  // Stops the page's clock, so that no timer can cause what follows.
  await page.clock.pauseAt(Date.now() + 60_000);
  await status(page, "open");
  proxy.freeze();
  await page.clock.runFor(10_000);
  await eventually(async () => {
    await page.clock.runFor(500);
    assert.match(await page.locator("#status").textContent(), /^Reconnecting since/);
  });
  await page.clock.runFor(2_000);
  proxy.renew();
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await status(page, "open");
});

fixture.page("the status shows that the page is offline, and since when", {}, async (page, problems, defer) => {
  const proxy = await Proxy.start(fixture.host.url);
  defer(() => proxy.stop());
  await page.clock.install();
  await open(page, proxy.url);
  const line = page.locator("#status");
  await page.context().setOffline(true);
  proxy.refuse = /./;
  proxy.heal();
  await status(page, "offline");
  assert.match(await line.textContent(), /^Offline since \d/);
  // Stops the page's clock: it reconnects without a timer.
  await page.clock.pauseAt(Date.now() + 60_000);
  assert.equal(await line.getAttribute("data-state"), "offline");
  proxy.refuse = null;
  await page.context().setOffline(false);
  await status(page, "open");
});
