// A page of several hosts behind nginx continues at another host when its own one is killed.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { startRedis, writeRedisConfig } from "./backend.mjs";
import { launch, withPage } from "./browser.mjs";
import { Host, manifest, newState, removeState } from "./host.mjs";
import { startNginx } from "./nginx.mjs";
import { assertEachOnceInOrder, assertWithoutGaps, eventually, openAll, shownIds, status } from "./page.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

/** Returns a function that starts hosts with one store and one bus. */
async function kitchen(folder, port) {
  const from = await manifest(folder, "300ms", 1);
  const config = await writeRedisConfig(folder, port);
  const options = ["--runtime-config-file", config, "--bus", `redis://127.0.0.1:${port}/1`];
  return async (name) => {
    const stateDir = join(folder, name);
    await mkdir(stateDir);
    return Host.start({ stateDir, from, options, tls: false });
  };
}

/** Removes the host that the page is connected to, and returns it. */
async function takeConnected(hosts) {
  for (const [index, { control }] of hosts.entries()) {
    const { sessions } = await (await fetch(`${control}/healthz`)).json();
    if (sessions > 0) return hosts.splice(index, 1)[0];
  }
  return assert.fail("the page is connected to no host");
}

/** Returns the id of the newest order on the rail; 0 while there is none. */
async function newest(page) {
  return (await shownIds(page)).at(-1) ?? 0;
}

test("the page continues at another host", { timeout: 240_000 }, () =>
  withPage(browser, "fleet", {}, async (page, _problems, defer) => {
    const folder = await newState();
    defer(() => removeState(folder));
    const redis = await startRedis(join(folder, "redis"));
    defer(() => redis.end());
    const start = await kitchen(folder, redis.port);
    // It runs the timer and has no clients, so that each order is published.
    const cook = await start("cook");
    defer(() => cook.stop());
    const hosts = [];
    for (const name of ["a", "b", "c"]) {
      const host = await start(name);
      hosts.push(host);
      defer(() => host.kill());
    }
    const nginx = await startNginx(folder, hosts);
    defer(() => nginx.end());

    const fetched = page.waitForResponse(/\/api\/orders\?/);
    const assertSame = await openAll([page], nginx.url);
    await (await fetched).finished();
    const first = await newest(page);
    await eventually(async () => assert.ok((await newest(page)) > first));

    const requests = [];
    page.on("request", (request) => requests.push(request.url()));
    while (hosts.length > 1) {
      const resumes = page.waitForEvent("websocket", { predicate: (socket) => /\/api\/ws\?after=\d/.test(socket.url()) });
      await (await takeConnected(hosts)).kill();
      await resumes;
      await status(page, "open");
      const last = await newest(page);
      await eventually(async () => assert.ok((await newest(page)) > last + 2));
    }
    assert.deepEqual(requests.filter((url) => url.includes("/api/orders")), []);
    const rails = await page.evaluate(() => globalThis.rails);
    assertEachOnceInOrder(rails);
    // The first messages can come before the orders that are fetched at the start.
    assertWithoutGaps([...new Set(rails.flat())].sort((a, b) => a - b));
    await assertSame();
  }),
);
