// With TLS, Chromium opens the page's WebSocket on a stream of HTTP/2, with compression.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { launch, withPage } from "./browser.mjs";
import { Host, newState, removeState } from "./host.mjs";
import { nextOrder, receiptOf, status } from "./page.mjs";

const timeout = 240_000;

test("the page's WebSocket is a compressed stream of HTTP/2", { timeout }, async (t) => {
  const stateDir = await newState();
  let host;
  t.after(async () => {
    await host?.stop();
    await removeState(stateDir);
  });
  host = await Host.start({ stateDir, tls: true });
  assert.match(host.url, /^https:/);
  const netLog = join(stateDir, "net-log.json");
  const browser = await launch(`--log-net-log=${netLog}`, "--net-log-capture-mode=Everything");
  try {
    await withPage(browser, "http2", {}, async (page, problems) => {
      const opened = page.waitForEvent("websocket");
      await page.goto(host.url);
      const socket = await opened;
      assert.equal(socket.url(), `${host.url.replace("http", "ws")}/api/ws`);
      await status(page, "open");
      assert.equal(await page.locator("#status").getAttribute("data-transport"), "socket");
      await receiptOf(page, (await nextOrder(socket)).id);
      assert.deepEqual(problems, []);
    });
  } catch (error) {
    console.error(`host log:\n${host.log}`);
    throw error;
  } finally {
    // Completes the log.
    await browser.close();
  }

  const exchanges = http2Exchanges(JSON.parse(await readFile(netLog, "utf8")));
  const sockets = exchanges.filter(({ request }) => request[":path"] === "/api/ws");
  assert.equal(sockets.length, 1, `HTTP/2 requests: ${exchanges.map(({ request }) => request[":path"])}`);
  const [{ session, request, response }] = sockets;
  assert.equal(request[":method"], "CONNECT");
  assert.equal(request[":protocol"], "websocket");
  assert.equal(request[":authority"], host.address);
  assert.match(request["sec-websocket-extensions"], /^permessage-deflate\b/);
  assert.equal(response[":status"], "200");
  assert.match(response["sec-websocket-extensions"], /^permessage-deflate\b/);

  // It is on the connection of the page itself.
  const page = exchanges.find(({ request }) => request[":path"] === "/");
  assert.equal(page?.session, session);
});

/** Returns the requests over HTTP/2 in a log of Chromium, with their responses and the ids of their sessions. */
function http2Exchanges({ constants, events }) {
  const { HTTP2_SESSION_SEND_HEADERS: sent, HTTP2_SESSION_RECV_HEADERS: received } = constants.logEventTypes;
  assert.ok(sent !== undefined && received !== undefined, "the log's events have other names");
  const exchanges = new Map();
  for (const { type, source, params } of events) {
    if (type !== sent && type !== received) continue;
    const key = `${source.id} ${params.stream_id}`;
    if (type === sent) exchanges.set(key, { session: source.id, request: fields(params.headers), response: {} });
    else Object.assign(exchanges.get(key).response, fields(params.headers));
  }
  return [...exchanges.values()];
}

/** Parses header fields such as `:method: GET`. */
function fields(lines) {
  return Object.fromEntries(lines.map((line) => /^(:?[^:]+): (.*)$/s.exec(line).slice(1)));
}
