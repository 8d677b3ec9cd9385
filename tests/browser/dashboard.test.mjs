// The dashboard at the control port.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { assertAccessible } from "./axe.mjs";
import { freePort, run } from "./backend.mjs";
import { launch, withPage } from "./browser.mjs";
import { KEY, manifest, newState, removeState } from "./host.mjs";

const PROGRAM = fileURLToPath(new URL("../../target/release/socket-host", import.meta.url));
const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
/** The name of another site, which resolves to this machine. */
const OTHER_SITE = "evil.example";
/** A page in the background draws no frames. */
const POLLING = { polling: 100 };
const timeout = 240_000;

let browser;
let stateDir;
/** A host without a key, and one with a key. */
let open;
let locked;

/** Starts a host, and returns its URLs. */
async function start(name, options = [], control = "127.0.0.1:0") {
  const from = await manifest(stateDir, "500ms", 1);
  const folder = join(stateDir, name);
  const args = ["up", "--from", from, "--listen", "127.0.0.1:0", "--control", control, "--state-dir", folder];
  const server = run(PROGRAM, [...args, ...options]);
  let url;
  const controlUrl = await server.started((line) => {
    url ??= /^Serving (http:\/\/\S+)/.exec(line)?.[1];
    return /^Control: (http:\/\/\S+)/.exec(line)?.[1];
  });
  return { url, control: controlUrl, end: server.end };
}

before(async () => {
  stateDir = await newState();
  open = await start("open");
  locked = await start("locked", ["--grip-key", KEY]);
  browser = await launch(`--host-resolver-rules=MAP ${OTHER_SITE} 127.0.0.1`);
});

after(async () => {
  await browser?.close();
  await open?.end();
  await locked?.end();
  await removeState(stateDir);
});

/** Defines a test that runs `use(page, problems, defer)`. */
function page(name, options, use) {
  test(name, { timeout }, () => withPage(browser, `dashboard-${name.replaceAll(/\W+/g, "-")}`, options, use));
}

const state = (page, name) => page.locator(`#state[data-state="${name}"]`).waitFor();

async function openDashboard(page, host = open) {
  await page.goto(host.control);
  await state(page, "live");
}

/** Opens a WebSocket of the application in a page of its own, and returns functions to read it. */
async function openSocket(context, defer) {
  const client = await context.newPage();
  defer(() => client.close());
  await client.goto(`${open.url}/api/orders?limit=1`);
  await client.evaluate(async (url) => {
    globalThis.messages = [];
    globalThis.socket = new WebSocket(url);
    socket.addEventListener("message", ({ data }) => messages.push(data));
    socket.addEventListener("close", ({ code }) => (globalThis.closeCode = code));
    await new Promise((resolve) => socket.addEventListener("open", resolve));
  }, `${open.url.replace("http", "ws")}/api/ws`);
  return {
    received: (text) => client.waitForFunction((text) => messages.includes(text), text, POLLING),
    closed: () => client.waitForFunction(() => globalThis.closeCode, null, POLLING).then((code) => code.jsonValue()),
  };
}

/** Moves the focus with the tab key until it is on an element with this accessible name. */
async function tabTo(page, name) {
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement;
      const label = element.labels?.[0]?.textContent;
      return (element.ariaLabel ?? label ?? element.textContent ?? "").trim();
    });
    if (focused === name) {
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, "none", `the focus on ${name} is visible`);
      return;
    }
  }
  assert.fail(`the tab key does not reach ${name}`);
}

page("it shows what the host is doing", {}, async (page, problems, defer) => {
  await openSocket(page.context(), defer);
  await openDashboard(page);
  const figure = (name) => page.locator("#figures li").filter({ hasText: name }).locator(".value");
  await page.waitForFunction(() => document.querySelector("#figures li:nth-child(2) .value").textContent === "1");
  assert.match(await figure("Memory").textContent(), /^\d+(\.\d)? MiB$/);
  // An order is made and delivered every half second.
  await page.waitForFunction(() => /^\d.*(µs|ms|s)$/.test(document.querySelector("#figures li:nth-child(5) .value").textContent));
  await page.waitForFunction(() => parseFloat(document.querySelector("#figures li:nth-child(4) .value").textContent) > 0);
  assert.equal(await page.locator("#figures svg").count(), 8);
  for (const label of await page.locator("#figures svg").evaluateAll((all) => all.map((it) => it.ariaLabel ?? it.getAttribute("aria-label")))) {
    assert.match(label, /in the last two minutes: at most/);
  }
  const orders = page.locator("#channels tr").filter({ has: page.getByRole("button", { name: "orders", exact: true }) });
  assert.equal(await orders.locator("td").first().textContent(), "1");
  const session = page.locator("#sessions tr");
  assert.equal(await session.count(), 1);
  assert.match(await session.textContent(), /^[0-9a-f]{8}\/api\/ws127\.0\.0\.1/);
  const timer = page.locator("#timers tr");
  await page.waitForFunction(() => document.querySelector("#timers tr").textContent.includes("succeeded"));
  assert.match(await timer.textContent(), /POST \/internal\/orders.*every 500ms/);
  assert.equal(await page.locator("#bus").isVisible(), false);
  assert.deepEqual(problems, []);
});

page("what is published from the page reaches clients, and is followed", {}, async (page, problems, defer) => {
  const socket = await openSocket(page.context(), defer);
  await openDashboard(page);
  await page.getByLabel("Channel", { exact: true }).fill("orders");
  await page.getByRole("button", { name: "Follow" }).click();
  const text = JSON.stringify({ event: "from the dashboard", text: "<b>bold</b>" });
  await page.locator("#publish").getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByText("Published to 1 subscriber.").waitFor();
  await socket.received(text);
  await page.locator("#items div").filter({ hasText: text }).waitFor();
  assert.equal(await page.locator("#items b").count(), 0, "text is not HTML");
  // The history of the channel was shown first.
  await page.locator("#items div").filter({ hasText: "order-received" }).first().waitFor();
  assert.deepEqual(problems, []);
});

page("a session can be sent to, refreshed and closed by keyboard", {}, async (page, problems, defer) => {
  const socket = await openSocket(page.context(), defer);
  await openDashboard(page);
  const [id] = await page.locator("#sessions th code").allTextContents();
  await page.locator("#content").focus();
  await tabTo(page, `Send ${id}`);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: `Send to ${id}` }).waitFor();
  const focused = () => page.evaluate(() => document.activeElement.id);
  assert.equal(await focused(), "send-text");
  // Escape closes the dialog, and the focus returns to the button.
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), `Send ${id}`);
  await page.keyboard.press("Enter");
  const text = JSON.stringify({ event: "hello" });
  await page.keyboard.type(text);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await socket.received(text);
  await page.getByText("Sent to ").waitFor();

  // The rows are updated every second, and keep the focus.
  await page.waitForTimeout(2500);
  assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), `Send ${id}`);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await page.getByText(`The component of ${id} gets a request.`).waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  assert.equal(await socket.closed(), 1008);
  await page.getByText("No WebSocket is open.").waitFor();
  assert.deepEqual(problems, []);
});

page("a host with a key asks for it once", {}, async (page) => {
  await page.goto(locked.control);
  const dialog = page.getByRole("dialog", { name: "Sign in" });
  await dialog.waitFor();
  assert.equal(await page.locator("#channels tr").count(), 0);
  await page.keyboard.press("Escape");
  assert.ok(await dialog.isVisible(), "there is nothing to see without a key");
  await page.getByLabel("Key or token").fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "invalid token" }).waitFor();
  await assertAccessible(page);
  await page.getByLabel("Key or token").fill(KEY);
  await page.keyboard.press("Enter");
  await state(page, "live");
  assert.equal(await dialog.isVisible(), false);
  await page.getByRole("button", { name: "orders", exact: true }).click();
  await page.locator("#items div").filter({ hasText: "order-received" }).first().waitFor();

  await page.reload();
  await state(page, "live");
  assert.deepEqual(await page.evaluate(() => [localStorage.length, document.cookie]), [0, ""], "nothing outlives the tab");
  await page.getByRole("button", { name: "Sign out" }).click();
  await dialog.waitFor();
});

for (const [name, options] of [
  ["in the light scheme", { colorScheme: "light" }],
  ["in the dark scheme", { colorScheme: "dark" }],
  ["on a phone", { ...PHONE, colorScheme: "dark" }],
  ["on a phone in the light scheme", { ...PHONE, colorScheme: "light" }],
]) {
  page(`axe finds no problems ${name}`, { ...options, reducedMotion: "reduce" }, async (page, problems, defer) => {
    await openSocket(page.context(), defer);
    await openDashboard(page);
    await page.getByRole("button", { name: "orders", exact: true }).click();
    await page.locator("#items div").first().waitFor();
    await page.locator("#sessions tr").first().waitFor();
    // Axe does not judge the colours of lines that are scrolled out of view.
    await page.getByRole("button", { name: "Follow" }).click();
    for (const id of ["items", "log"]) {
      await page.evaluate((id) => {
        const lines = document.getElementById(id);
        lines.replaceChildren(lines.lastElementChild);
      }, id);
    }
    assert.deepEqual(await assertAccessible(page), []);
    const [width, available] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(width <= available, `the page is ${width} wide, and the window ${available}`);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const [red] = background.match(/\d+/g).map(Number);
    assert.equal(red > 128, options.colorScheme === "light", background);
    await page.locator("#sessions tr").first().getByRole("button", { name: "Send" }).click();
    await page.getByRole("dialog").waitFor();
    assert.deepEqual(await assertAccessible(page), []);
    const box = await page.getByRole("dialog").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= available, JSON.stringify(box));
    // The page has ended the request with which it followed the channel.
    const isExpected = (problem) => /\/events\?recent=\d+: net::ERR_ABORTED$/.test(problem);
    assert.deepEqual(problems.filter((problem) => !isExpected(problem)), []);
  });
}

page("a page that is paused, hidden or closed requests nothing", {}, async (page, problems) => {
  await openDashboard(page);
  let requests = 0;
  page.on("request", () => (requests += 1));
  await page.waitForTimeout(2500);
  assert.ok(requests >= 5, `${requests} requests while it is visible`);
  const pause = page.getByRole("button", { name: "Pause" });
  await pause.click();
  await state(page, "paused");
  await page.waitForTimeout(1000);
  requests = 0;
  await page.waitForTimeout(2500);
  assert.equal(requests, 0, "while it is paused");
  await pause.click();
  await state(page, "live");
  // Every page is visible in headless Chromium, so this simulates a hidden one.
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, value: true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await page.waitForTimeout(1000);
  requests = 0;
  await page.waitForTimeout(2500);
  assert.equal(requests, 0, "while it is hidden");
  await page.evaluate(() => {
    delete document.hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await page.waitForRequest((request) => request.url().endsWith("/status/"));
  assert.deepEqual(problems, []);
});

page("it goes on when the host is restarted", {}, async (page, _problems, defer) => {
  const control = `127.0.0.1:${await freePort()}`;
  const host = await start("restarted", [], control);
  defer(() => host.end());
  await openDashboard(page, host);
  await host.end();
  await state(page, "offline");
  const again = await start("restarted", [], control);
  defer(() => again.end());
  await state(page, "live");
});

/** Serves a page of another site, and returns its URL. */
async function otherSite(defer) {
  const server = createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/html" });
    response.end("<!doctype html><title>other</title><iframe></iframe>");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  defer(() => server.close());
  return `http://${OTHER_SITE}:${server.address().port}/`;
}

page("pages of other sites cannot publish, read or show it", {}, async (page, _problems, defer) => {
  const sites = [await otherSite(defer), `${open.url}/api/orders?limit=1`];
  for (const site of sites) {
    const item = `forged by ${site}`;
    await page.goto(site);
    const outcome = await page.evaluate(
      async ([control, item]) => {
        const body = JSON.stringify({ items: [{ channel: "forged", id: item, formats: { "ws-message": { content: item } } }] });
        const attempts = {
          // Sent without asking the host first.
          simple: () => fetch(`${control}/publish/`, { method: "POST", mode: "no-cors", body }),
          readable: () => fetch(`${control}/publish/`, { method: "POST", body }),
          status: () => fetch(`${control}/status/`),
          sessions: () => fetch(`${control}/sessions/`),
          events: () => fetch(`${control}/channels/orders/events`),
          page: () => fetch(control),
          script: () => import(`${control}/dashboard/api.js`),
        };
        const results = {};
        for (const [name, attempt] of Object.entries(attempts)) {
          results[name] = await attempt().then(
            (response) => `${response.type} ${response.status}`,
            () => "failed",
          );
        }
        return results;
      },
      [open.control, item],
    );
    assert.deepEqual(outcome, {
      simple: "opaque 0",
      readable: "failed",
      status: "failed",
      sessions: "failed",
      events: "failed",
      page: "failed",
      script: "failed",
    });
    const channels = await fetch(`${open.control}/channels/?prefix=forged`);
    assert.deepEqual(await channels.json(), { channels: [], total: 0 }, `nothing was published by ${site}`);
  }
  // No page may contain it.
  await page.goto(sites[0]);
  await page.evaluate((control) => (document.querySelector("iframe").src = control), open.control);
  await page.waitForTimeout(1500);
  const framed = page.frames().find((frame) => frame !== page.mainFrame());
  assert.equal(await framed.locator("#figures").count(), 0);
});

page("a name that was made to resolve to this machine is refused", {}, async (page) => {
  const { port } = new URL(open.control);
  const response = await page.goto(`http://${OTHER_SITE}:${port}/`);
  assert.equal(response.status(), 421);
  const status = await page.evaluate(async () => {
    const body = JSON.stringify({ items: [{ channel: "forged", id: "1", formats: {} }] });
    const responses = [await fetch("/publish/", { method: "POST", body }), await fetch("/status/"), await fetch("/metrics")];
    return responses.map((response) => response.status);
  });
  assert.deepEqual(status, [401, 421, 421]);
});

page("latencies are computed from histograms", {}, async (page) => {
  await page.goto(open.control);
  const results = await page.evaluate(async () => {
    const { buckets, parse, quantile, sum } = await import("/dashboard/metrics.js");
    const text = (counts) =>
      [
        "# TYPE socket_host_x_seconds histogram",
        ...counts.map(([bound, count]) => `socket_host_x_seconds_bucket{le="${bound}"} ${count}`),
        'socket_host_requests_total{component="a \\"b\\"",status="200"} 3',
        'socket_host_requests_total{component="c",status="trap"} 4',
        "# EOF",
      ].join("\n");
    const at = (...counts) => buckets(parse(text(counts)), "x_seconds");
    const before = at(["0.001", 10], ["0.01", 10], ["+Inf", 10]);
    const after = at(["0.001", 11], ["0.01", 15], ["+Inf", 15]);
    const samples = parse(text([]));
    return {
      all: sum(samples, "requests_total"),
      failed: sum(samples, "requests_total", ({ status }) => status === "trap"),
      quoted: samples.get("socket_host_requests_total")[0].labels.component,
      none: sum(samples, "unknown_total"),
      median: quantile(after, before, 0.5),
      nothing: quantile(before, before, 0.5) ?? "nothing",
      beyond: quantile(at(["0.001", 0], ["0.01", 0], ["+Inf", 5]), [], 0.5),
    };
  });
  const { median, quoted, ...others } = results;
  assert.deepEqual(others, { all: 7, failed: 4, none: 0, nothing: "nothing", beyond: 0.01 });
  // Half of the 5 are in the first 1.5 of the 4 in the second bucket.
  assert.ok(Math.abs(median - (0.001 + (0.009 * 1.5) / 4)) < 1e-9, String(median));
  assert.equal(quoted, 'a \\"b\\"');
});
