// The page's appearance and accessibility, on all kinds of screens.

import assert from "node:assert/strict";

import { assertAccessible } from "./axe.mjs";
import { deliverOrders, Host, newState, removeState } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { eventually, open, shownAs, shownIds, status, statuses, ticket } from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const fixture = new Fixture({ stock: 20 });

const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };

/** Makes sure that the page shows a ticket in each status. */
async function showAllStatuses(page) {
  for (const [status, buttons] of [
    ["fulfilled", [".advance", ".advance"]],
    ["cancelled", [".cancel"]],
    ["fired", [".advance"]],
  ]) {
    const at = await statuses(page);
    if (Object.values(at).includes(status)) continue;
    const id = (await shownIds(page)).findLast((id) => at[id] === "received");
    for (const button of buttons) await ticket(page, id).locator(button).evaluate((it) => it.click());
    await shownAs(page, id, status);
  }
}

/** Sets the service's clock to `seconds` after the newest order. */
async function setAge(page, seconds) {
  const [{ timestamp }] = await fixture.host.orders((await fixture.host.newest()) - 1);
  const date = new Date(Date.parse(timestamp) + seconds * 1000).toUTCString();
  await page.route("**/api/orders?*", async (route) => {
    const { pathname, search } = new URL(route.request().url());
    // Not by `route.fetch`, which does not trust the certificate of the tests.
    const response = await fixture.host.fetch(`${pathname}${search}`);
    await route.fulfill({ headers: { ...Object.fromEntries(response.headers), date }, body: await response.text() });
  });
}

for (const [name, options, prepare] of [
  ["in the dark scheme", { colorScheme: "dark" }],
  ["in the light scheme", { colorScheme: "light" }],
  ["on a phone", { ...PHONE, colorScheme: "dark" }],
  ["on a phone in the light scheme", { ...PHONE, colorScheme: "light" }],
  ["with the dialog open", { colorScheme: "dark" }, (page) => page.keyboard.press("?")],
  ["with a notice", { colorScheme: "light" }, (page) => page.evaluate(() => (document.getElementById("notice").textContent = "Order 100 is unchanged"))],
  ["with older orders", { colorScheme: "light" }, (page) => page.getByRole("button", { name: "Older" }).click()],
  ["with the chime on", { colorScheme: "light" }, (page) => page.getByRole("button", { name: "Chime" }).click()],
]) {
  fixture.page(`axe finds no problems ${name}`, { ...options, reducedMotion: "reduce" }, async (page, problems) => {
    await page.clock.install();
    await setAge(page, 2);
    await open(page, fixture.host.url);
    await showAllStatuses(page);
    await prepare?.(page);
    await assertAccessible(page);

    // Axe cannot check the contrast of text on images, so check it without them.
    await page.evaluate(() => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync("*, ::before, ::after { background-image: none !important; mask: none !important; text-shadow: none !important }");
      document.adoptedStyleSheets.push(sheet);
    });
    for (const [stage, ms] of [["fresh", 0], ["aging", 16_000], ["late", 16_000]]) {
      await page.clock.fastForward(ms);
      await eventually(async () => assert.ok((await page.locator(`[data-age="${stage}"]`).count()) >= 2, stage));
      const unchecked = await assertAccessible(page, { runOnly: ["color-contrast"] });
      assert.deepEqual(unchecked, [], `${stage}: all contrasts are checked`);
    }
    assert.deepEqual(problems, []);
  });
}

fixture.page("the policy is strict, and the page does not violate it", {}, async (page, problems) => {
  await page.addInitScript(() => {
    globalThis.violations = [];
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
      globalThis.violations.push(`${violatedDirective}: ${blockedURI}`),
    );
  });
  const response = await page.goto(fixture.host.url);
  await status(page, "open");
  const headers = response.headers();
  const policy = Object.fromEntries(
    headers["content-security-policy"].split(";").map((it) => it.trim().split(/ (.*)/, 2)),
  );
  assert.equal(policy["default-src"], "'none'");
  assert.equal(policy["script-src"], "'self'");
  assert.equal(policy["style-src"], "'self'");
  assert.equal(policy["frame-ancestors"], "'none'");
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.equal(headers["referrer-policy"], "no-referrer");
  await showAllStatuses(page);
  await page.getByRole("button", { name: "Chime" }).click();
  await page.keyboard.press("?");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Older" }).click();
  await eventually(async () => assert.match(await page.locator("#icon").getAttribute("href"), /^data:image/));
  assert.match(await page.title(), /^\(\d+\) Socket Burger$/);
  assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
  assert.deepEqual(problems, []);
});

for (const colorScheme of ["dark", "light"]) {
  fixture.page(`axe finds no problems without orders or without a connection, ${colorScheme}`, { colorScheme, reducedMotion: "reduce" }, async (page, _problems, defer) => {
    const stateDir = await newState();
    defer(() => removeState(stateDir));
    const host = await Host.start({ stateDir, timers: 0 });
    defer(() => host.stop());
    const proxy = await Proxy.start(host.url, { refuse: /^GET \/api\/ws/ });
    defer(() => proxy.stop());
    await open(page, proxy.url);
    assert.equal(await page.locator("#status").getAttribute("data-transport"), "stream");
    await page.getByText("New orders will appear here").waitFor();
    await assertAccessible(page);
    proxy.refuse = /./;
    proxy.heal();
    await status(page, "reconnecting");
    await assertAccessible(page);
  });

  fixture.page(`the focus ring is visible on any background, ${colorScheme}`, { colorScheme }, async (page) => {
    await open(page, fixture.host.url);
    await page.locator("#kitchen").focus();
    await page.keyboard.press("Shift");
    const ring = await page.locator("#kitchen").evaluate((it) => {
      const { outlineColor, boxShadow } = getComputedStyle(it);
      return [outlineColor, /^rgba?\([^)]*\)/.exec(boxShadow)[0]];
    });
    assert.ok(contrast(...ring) > 9, `${ring}: one of them is visible on any background`);
    await page.locator("#older").focus();
    const pill = await page.locator("#older").evaluate((it) => {
      const { outlineColor, outlineOffset, outlineWidth, backgroundColor } = getComputedStyle(it);
      return [outlineColor, backgroundColor, parseFloat(outlineOffset) + parseFloat(outlineWidth)];
    });
    assert.ok(contrast(...pill) > 3, `${pill}`);
    assert.equal(pill[2], 0, "the ring is on the button itself");
  });
}

/** Returns the contrast ratio of two colours (WCAG 2). */
function contrast(...colours) {
  const luminance = (colour) => {
    const [red, green, blue] = colour
      .match(/[\d.]+/g)
      .map((it) => it / 255)
      .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [one, other] = colours.slice(0, 2).map(luminance).sort((a, b) => b - a);
  return (one + 0.05) / (other + 0.05);
}

fixture.page("an order's text is never markup", {}, async (page) => {
  const evil = '<img src=x onerror="globalThis.injected = 1">';
  await page.routeWebSocket(/\/api\/ws$/, (socket) => {
    const server = socket.connectToServer();
    server.onMessage((message) => {
      socket.send(message);
      if (JSON.parse(message).event !== "pong") return;
      const order = {
        id: newest + 1,
        timestamp: "2026-01-02T03:04:05.678Z",
        destination: evil,
        status: "received",
        items: [{ name: evil, substitutions: [evil] }],
        notes: [evil],
      };
      socket.send(JSON.stringify({ event: "order-received", detail: { order } }));
    });
  });
  const newest = (await fixture.host.orders()).at(-1).id;
  await page.goto(fixture.host.url);
  const receipt = ticket(page, newest + 1);
  await receipt.waitFor();
  assert.equal((await receipt.textContent()).split(evil).length - 1, 4);
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.evaluate(() => globalThis.injected), undefined);
});

fixture.page("everything is usable on a phone", PHONE, async (page, problems) => {
  await open(page, fixture.host.url);
  const size = await page.evaluate(() => [document.body.scrollWidth, document.body.scrollHeight]);
  assert.deepEqual(size, [360, 740], "the page itself does not scroll");
  const newest = (await shownIds(page)).at(-1);
  const box = await ticket(page, newest).boundingBox();
  assert.ok(box.x >= 0 && box.x + box.width <= 360, JSON.stringify(box));
  for (const button of await page.getByRole("button").all()) {
    if (!(await button.isVisible())) continue;
    const { width, height } = await button.boundingBox();
    assert.ok(width >= 24 && height >= 24, `${await button.textContent()}: ${width} × ${height}`);
  }
  await page.evaluate(() => document.getElementById("kitchen").scrollTo(-1000, 0));
  assert.ok(!(await ticket(page, newest).evaluate((it) => it.getBoundingClientRect().left < innerWidth)));
  await page.getByRole("button", { name: "Newest" }).tap();
  await eventually(async () => assert.ok((await ticket(page, newest).boundingBox()).x >= 0));
  await eventually(async () => assert.equal(await page.getByRole("button", { name: "Newest" }).isVisible(), false));
  assert.deepEqual(problems, []);
});

fixture.page("the button to the newest fits on the narrowest phone", { ...PHONE, viewport: { width: 320, height: 640 } }, async (page) => {
  await open(page, fixture.host.url);
  await page.locator("#kitchen").evaluate((it) => it.scrollTo(-1000, 0));
  const newest = page.getByRole("button", { name: "Newest" });
  await newest.waitFor();
  const { x, width } = await newest.boundingBox();
  assert.ok(x + width <= 320, `it ends at ${x + width}`);
});

for (const width of [640, 700]) {
  fixture.page(`the status covers no button of the bar, ${width} px wide and low`, { viewport: { width, height: 360 } }, async (page) => {
    await open(page, fixture.host.url);
    await page.evaluate(() => {
      const [word, detail] = document.getElementById("status").children;
      word.textContent = "Reconnecting";
      detail.textContent = "in 30 s, since 12:00 PM";
    });
    const line = await page.locator("#status").boundingBox();
    const chime = await page.locator("#chime").boundingBox();
    const title = await page.locator("h1").evaluate((it) => {
      const range = document.createRange();
      range.selectNodeContents(it);
      return range.getBoundingClientRect().right;
    });
    assert.ok(line.x + line.width <= chime.x && line.x >= title, JSON.stringify([title, line, chime]));
  });
}

fixture.page("without JavaScript there are receipts and no buttons", { javaScriptEnabled: false }, async (page) => {
  await deliverOrders(fixture.host, fixture.stateDir, 1);
  await fixture.host.change(await fixture.host.newest(), "cancelled");
  await page.goto(fixture.host.url);
  assert.equal((await shownIds(page)).length, 12);
  assert.equal(await page.getByRole("button").filter({ visible: true }).count(), 0);
  await page.locator("noscript .status").waitFor();
  // The debugger can evaluate scripts, even if the page cannot.
  assert.deepEqual(await page.evaluate(findOverlappingStamps), []);
});

fixture.page("a stamp is animated when it is set, not when the page loads", {}, async (page) => {
  await deliverOrders(fixture.host, fixture.stateDir, 2);
  await fixture.host.change(await fixture.host.newest(), "cancelled");
  await page.addInitScript(() => {
    globalThis.moves = [];
    for (const event of ["transitionrun", "animationstart"]) {
      addEventListener(event, ({ propertyName, animationName, pseudoElement }) =>
        globalThis.moves.push(`${propertyName ?? animationName} ${pseudoElement}`), true);
    }
  });
  await open(page, fixture.host.url);
  await page.waitForTimeout(500);
  assert.ok((await page.locator('[data-status="cancelled"]').count()) > 0);
  assert.deepEqual(await page.evaluate(() => globalThis.moves), []);
  await page.locator('[data-status="received"] .cancel').last().evaluate((button) => button.click());
  await eventually(async () => assert.ok((await page.evaluate(() => globalThis.moves)).includes("scale ::after")));
});

for (const [width, height] of [[3840, 2160], [2560, 1440]]) {
  fixture.page(`tickets fill a screen of ${width} × ${height}`, { viewport: { width, height } }, async (page, problems) => {
    const boxes = () => page.locator(".receipt").evaluateAll((all) => all.map((it) => it.getBoundingClientRect().toJSON()));
    const assertFull = (all) => {
      assert.equal(all.length, 12);
      for (const [index, box] of all.entries()) {
        assert.ok(box.left > 0 && box.right < width && box.top > 0, JSON.stringify(box));
        for (const other of all.slice(index + 1)) {
          assert.ok(box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom, "two overlap");
        }
      }
      const used = all.reduce((sum, box) => sum + box.width * box.height, 0) / (width * height);
      assert.ok(used > 0.25, `${used} of the screen is used`);
    };
    await open(page, fixture.host.url);
    await eventually(async () => assertFull(await boxes()));
    await deliverOrders(fixture.host, fixture.stateDir, 1);
    await ticket(page, await fixture.host.newest()).waitFor();
    await eventually(async () => assertFull(await boxes()));
    const [newest] = (await boxes()).slice(-1);
    assert.ok(newest.right > width * 0.95 && newest.top < height * 0.1, "the newest is at the upper right");
    assert.deepEqual(problems, []);
  });
}

fixture.page("the print shows receipts and nothing else", {}, async (page) => {
  await open(page, fixture.host.url);
  await showAllStatuses(page);
  await page.emulateMedia({ media: "print" });
  const boxes = await page.locator(".receipt").evaluateAll((all) => all.map((it) => it.getBoundingClientRect().toJSON()));
  assert.equal(boxes.length, 12);
  for (const [index, one] of boxes.entries()) {
    for (const other of boxes.slice(index + 1)) {
      const apart = one.right <= other.left || one.left >= other.right || one.bottom <= other.top || one.top >= other.bottom;
      assert.ok(apart, "two receipts overlap");
    }
  }
  for (const hidden of [".bar", ".foot", ".actions"]) {
    assert.equal(await page.locator(hidden).filter({ visible: true }).count(), 0, hidden);
  }
  assert.deepEqual(await page.evaluate(findOverlappingStamps), []);
});

/** Returns the stamps that cover text. Runs in the page. */
function findOverlappingStamps() {
  const papers = document.querySelectorAll('[data-status="fulfilled"] > .paper, [data-status="cancelled"] > .paper');
  if (papers.length === 0) return ["there are no stamps"];
  return [...papers].flatMap((paper) => {
    const stamp = getComputedStyle(paper, "::after");
    // The stamp is rotated by seven degrees.
    const height = parseFloat(stamp.height) + parseFloat(stamp.width) * Math.sin((7 * Math.PI) / 180);
    const middle = paper.getBoundingClientRect().bottom - parseFloat(stamp.bottom) - parseFloat(stamp.height) / 2;
    const textBottom = [...paper.querySelectorAll(".items, .notes")].at(-1).getBoundingClientRect().bottom;
    return middle - height / 2 < textBottom - 1 ? [`${paper.textContent}: ${middle - height / 2} is above ${textBottom}`] : [];
  });
}
