// Other clients in a page work with the host as well: WebSocket, PartySocket and EventSource.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import { deliverOrders, Host } from "./host.mjs";
import { eventually, open } from "./page.mjs";
import { Fixture } from "./fixture.mjs";

const PARTYSOCKET = new URL("node_modules/partysocket/dist/ws.js", import.meta.url);
const KINDS = ["WebSocket", "PartySocket", "EventSource", "ReconnectingSocket"];

const fixture = new Fixture({ stock: 1 });

/** Returns the ids that each client has received, and the clients that are open. */
const received = (page) => page.evaluate(() => globalThis.received);
const openKinds = (page) => page.evaluate(() => Object.keys(globalThis.clients).filter((kind) => globalThis.clients[kind].readyState === 1));

fixture.page("clients of other libraries get the same messages, and come back as they do elsewhere", {}, async (page) => {
  const partySocket = await readFile(PARTYSOCKET, "utf8");
  await page.route("**/partysocket.js", (route) => route.fulfill({ contentType: "text/javascript", body: partySocket }));
  await open(page, fixture.host.url);
  const module = await page.evaluate(() => document.querySelector('link[href*="client/reconnecting-socket"]').href);
  await page.evaluate(start, module);
  await eventually(async () => assert.deepEqual(await openKinds(page), KINDS));

  await deliverOrders(fixture.host, fixture.stateDir, 1);
  const first = await fixture.host.newest();
  await eventually(async () => {
    for (const kind of KINDS) assert.equal((await received(page))[kind].at(-1), first, kind);
  });
  // All of them can send, except for EventSource.
  await page.evaluate(() => {
    for (const kind of ["WebSocket", "PartySocket", "ReconnectingSocket"]) globalThis.clients[kind].send('{"event":"ping"}');
  });
  await eventually(async () => {
    const pongs = await page.evaluate(() => globalThis.pongs);
    for (const kind of ["WebSocket", "PartySocket", "ReconnectingSocket"]) assert.ok(pongs[kind] >= 1, kind);
  });

  const { address } = fixture.host;
  await fixture.host.kill();
  fixture.host = await Host.start({ stateDir: fixture.stateDir, every: "1h", listen: address });
  await eventually(async () => assert.deepEqual(await openKinds(page), KINDS.slice(1)), 60_000);
  await deliverOrders(fixture.host, fixture.stateDir, 1);
  const second = await fixture.host.newest();
  await eventually(async () => {
    for (const kind of KINDS.slice(1)) assert.equal((await received(page))[kind].at(-1), second, kind);
  });
  const ids = await received(page);
  assert.equal(ids.WebSocket.at(-1), first, "a plain WebSocket does not come back");
  const streamed = ids.EventSource;
  assert.deepEqual(streamed, streamed.map((_, index) => streamed[0] + index), "a stream repeats and loses nothing");
});

/** Opens a client of each kind. Runs in the page. */
async function start(module) {
  const { default: PartySocket } = await import("/partysocket.js");
  const { ReconnectingSocket } = await import(module);
  const url = `${location.origin.replace("http", "ws")}/api/ws`;
  const clients = {
    WebSocket: new WebSocket(url),
    PartySocket: new PartySocket(url),
    EventSource: new EventSource("/api/orders/stream"),
    ReconnectingSocket: new ReconnectingSocket(url),
  };
  const received = {};
  const pongs = {};
  for (const [kind, client] of Object.entries(clients)) {
    received[kind] = [];
    const receive = ({ data }) => {
      const { event, detail } = JSON.parse(data);
      if (event === "order-received") received[kind].push(detail.order.id);
      if (event === "pong") pongs[kind] = (pongs[kind] ?? 0) + 1;
    };
    for (const type of ["message", "order-received"]) client.addEventListener(type, receive);
  }
  Object.assign(globalThis, { clients, received, pongs });
}
