// The client module in Chromium, with servers that stall, lie, close, and come back.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { launch, withPage } from "./browser.mjs";
import { eventually } from "./page.mjs";
import { Proxy } from "./proxy.mjs";
import { RoomsServer } from "./rooms.mjs";

const ROOMS = "rooms.v1";
/** How soon a dead connection must be noticed: 9 s, plus a margin for a busy machine. */
const DETECTION_MS = 12_000;
/** Longer than the timeout in browser.mjs. */
const timeout = 240_000;

let browser;

before(async () => {
  browser = await launch("--host-resolver-rules=MAP chat.test 127.0.0.1");
});

after(() => browser?.close());

/** Defines a test that runs `use(page, server, defer, problems)` with a page of a server of its own. */
function withServer(name, use) {
  test(name, { timeout }, () =>
    withPage(browser, `client-${name.replaceAll(/\W+/g, "-")}`, {}, async (page, problems, defer) => {
      const server = await RoomsServer.start();
      defer(() => server.stop());
      await use(page, server, defer, problems);
    }),
  );
}

/** Opens a page of `origin`, and connects it to the room. */
async function connect(page, origin, protocols = ROOMS, options = {}) {
  await page.goto(origin);
  await page.evaluate(
    async ([protocols, options]) => {
      const { ReconnectingSocket } = await import("/reconnecting-socket.js");
      const socket = new ReconnectingSocket("/room", protocols, options);
      const events = [];
      for (const type of ["connecting", "open", "message", "item", "refetch", "error", "close"]) {
        socket.addEventListener(type, ({ id, data, channel, recovered, code, reason }) => {
          events.push({ type, id, data, channel, recovered, code, reason, at: Date.now() });
        });
      }
      Object.assign(globalThis, { socket, events });
    },
    [protocols, options],
  );
}

const events = (page, ...types) =>
  page.evaluate((types) => globalThis.events.filter(({ type }) => types.includes(type)), types);

const ids = async (page) => (await events(page, "item")).map(({ id }) => id);

const state = (page) => page.evaluate(() => [globalThis.socket.readyState, globalThis.socket.transport]);

/** Waits until the page has had `count` connections. */
const opened = (page, count = 1) => eventually(async () => assert.ok((await events(page, "open")).length >= count));

const upTo = (last) => Array.from({ length: last }, (_, index) => index + 1);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The tests mostly wait, so they run concurrently, each with its own server.
describe("client module", { concurrency: 4 }, () => {
  withServer("items arrive, and messages go both ways", async (page, server, _defer, problems) => {
    server.publish();
    await connect(page, server.url);
    await opened(page);
    server.publish();
    await page.evaluate(() => globalThis.socket.send("hello"));
    await eventually(async () => assert.deepEqual((await events(page, "message")).map(({ data }) => data), ["hello"]));
    assert.deepEqual(await ids(page), [1, 2], "the room's history, and what is published");
    assert.equal((await events(page, "refetch")).length, 1);
    assert.deepEqual(server.received, ["hello"]);
    assert.deepEqual(await page.evaluate(() => [globalThis.socket.protocol, globalThis.socket.url]), [ROOMS, `${server.url.replace("http", "ws")}/room`]);
    assert.deepEqual(problems, []);
  });

  withServer("a connection that stalls is noticed, and nothing is lost", async (page, server, defer) => {
    const proxy = await Proxy.start(server.url);
    defer(() => proxy.stop());
    await connect(page, proxy.url);
    await opened(page);
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1]));
    const stalledAt = await page.evaluate(() => Date.now());
    proxy.freeze();
    // They are sent into the dead connection.
    for (let count = 0; count < 3; count += 1) server.publish();
    await page.evaluate(() => globalThis.socket.send("into the dead connection"));
    await eventually(async () => assert.equal((await events(page, "close")).length, 1));
    const [lost] = await events(page, "close");
    assert.deepEqual([lost.code, lost.reason], [1006, "timeout"]);
    assert.ok(lost.at - stalledAt < DETECTION_MS, `noticed after ${lost.at - stalledAt} ms`);
    await page.evaluate(() => globalThis.socket.send("kept"));
    // What the old connection still delivers is not received twice.
    proxy.thaw();
    await opened(page, 2);
    server.publish();
    await eventually(async () => assert.equal((await ids(page)).length, 5));
    assert.deepEqual(await ids(page), upTo(5));
    assert.equal((await events(page, "open"))[1].recovered, true);
    assert.equal((await events(page, "refetch")).length, 1, "only at the start");
    await eventually(() => assert.ok(server.received.includes("kept")));
  });

  withServer("servers that accept and never answer are left for a stream, and tried again", async (page, server) => {
    server.mode = "stall";
    await connect(page, server.url, ROOMS, { connectTimeout: 1_500 });
    await opened(page);
    assert.deepEqual(await state(page), [1, "stream"]);
    assert.ok(server.handshakes >= 2);
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1]));
    await page.evaluate(() => globalThis.socket.send("waits for a WebSocket"));
    assert.equal(await page.evaluate(() => globalThis.socket.bufferedAmount), 21);

    // Messages on a WebSocket that stalls change nothing.
    const { handshakes } = server;
    await eventually(async () => {
      await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      assert.ok(server.handshakes > handshakes);
    });
    assert.deepEqual(await state(page), [1, "stream"]);

    server.mode = "accept";
    await eventually(async () => {
      await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      assert.deepEqual(await state(page), [1, "socket"]);
    });
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1, 2]));
    assert.deepEqual(server.received, ["waits for a WebSocket"]);
    assert.equal((await events(page, "open")).at(-1).recovered, true);
    await eventually(() => assert.equal(server.clients, 1, "the stream was closed"));
  });

  withServer("wrong frames and ids cause no wrong items", async (page, server) => {
    await connect(page, server.url);
    await opened(page);
    server.publish();
    const wrong = ['{"$":"item"', '{"$":"item","channel":"room:1","id":"2","data":0}', '{"$":"unknown"}', '{"$":null}'];
    for (const frame of wrong) server.broadcast(frame);
    // A duplicate, and an item that should not exist.
    server.broadcast('{"$":"item","channel":"room:1","id":1,"data":"again"}');
    server.broadcast('{"$":"item","channel":"room:1","id":0,"data":"early"}');
    // Two are lost, so the next one leaves a gap.
    for (let count = 0; count < 2; count += 1) server.publish({ isSent: false });
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), upTo(4)));
    assert.deepEqual(server.resumes, [1]);
    // A gap that the server cannot fill.
    server.resumeMode = "reset";
    server.publish({ isSent: false });
    server.publish();
    await eventually(async () => assert.equal((await events(page, "refetch")).length, 2));
    assert.equal((await events(page, "refetch"))[1].channel, "room:1");
    assert.deepEqual(await events(page, "close", "message"), []);
    assert.deepEqual(await page.evaluate(() => [...globalThis.socket.positions]), [["room:1", 6]]);
  });

  withServer("a server that was away for long is not recovered", async (page, server) => {
    await connect(page, server.url);
    await opened(page);
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1]));
    server.mode = "refuse";
    server.disconnect();
    for (let count = 0; count < 30; count += 1) server.publish();
    await eventually(async () => assert.ok((await events(page, "close")).length >= 2));
    server.mode = "accept";
    await opened(page, 2);
    await eventually(async () => assert.equal((await ids(page)).at(-1), 31));
    const [, second] = await events(page, "open");
    assert.equal(second.recovered, false);
    const [, refetch] = await events(page, "refetch");
    assert.equal(refetch.channel, "room:1");
    assert.deepEqual((await ids(page)).slice(1), upTo(31).slice(-20));

    // The store was emptied: the ids begin again.
    server.empty();
    server.disconnect();
    await opened(page, 3);
    server.publish();
    await eventually(async () => assert.equal((await ids(page)).at(-1), 1));
  });

  withServer("close codes decide whether the client comes back", async (page, server) => {
    await connect(page, server.url);
    for (const [index, code] of [1012, 1013, 1000].entries()) {
      await opened(page, index + 1);
      server.disconnect(code, "again");
    }
    await opened(page, 4);
    server.disconnect(4003, "no");
    await eventually(async () => assert.deepEqual(await state(page), [3, "socket"]));
    const closes = await events(page, "close");
    assert.deepEqual(closes.map(({ code, reason }) => [code, reason]), [[1012, "again"], [1013, "again"], [1000, "again"], [4003, "no"]]);
    const { handshakes } = server;
    await page.evaluate(() => globalThis.dispatchEvent(new Event("online")));
    await pause(2_000);
    assert.equal(server.handshakes, handshakes);
    await page.evaluate(() => globalThis.socket.reconnect());
    await opened(page, 5);
    await page.evaluate(() => globalThis.socket.close(4001, "bye"));
    await eventually(async () => assert.equal((await events(page, "close")).at(-1).code, 4001));
    assert.equal(server.clients, 0);
  });

  withServer("each attempt has a fresh token", async (page, server) => {
    await page.goto(server.url);
    await page.evaluate(async () => {
      const { ReconnectingSocket } = await import("/reconnecting-socket.js");
      const url = async () => `/room?token=${await (await fetch("/token")).text()}`;
      Object.assign(globalThis, { opens: 0, socket: new ReconnectingSocket(url, "rooms.v1") });
      globalThis.socket.onopen = () => (globalThis.opens += 1);
    });
    const count = (opens) => eventually(async () => assert.equal(await page.evaluate(() => globalThis.opens), opens));
    await count(1);
    server.disconnect();
    await count(2);
    assert.deepEqual(server.urls, ["/room?token=token-0", "/room?token=token-1"]);
  });

  withServer("a plain server gets text and binary messages in their order", async (page, server, _defer, problems) => {
    server.selects = false;
    await page.goto(server.url);
    await page.evaluate(async () => {
      const { ReconnectingSocket } = await import("/reconnecting-socket.js");
      const socket = new ReconnectingSocket("/room");
      socket.binaryType = "arraybuffer";
      Object.assign(globalThis, { socket, received: [] });
      socket.onmessage = ({ data, origin }) => globalThis.received.push(typeof data === "string" ? [data, origin] : [...new Uint8Array(data)]);
      const bytes = new Uint8Array([1, 2, 3]);
      // Before the connection is open.
      socket.send("one");
      socket.send(bytes);
      socket.send(new Blob([bytes]));
      socket.send("two");
      bytes.fill(0);
    });
    const origin = server.url.replace("http", "ws");
    const expected = [["one", origin], [1, 2, 3], [1, 2, 3], ["two", origin]];
    await eventually(async () => assert.deepEqual(await page.evaluate(() => globalThis.received), expected));
    server.disconnect();
    await eventually(async () => {
      await page.evaluate(() => globalThis.socket.send("three"));
      assert.equal((await page.evaluate(() => globalThis.received)).at(-1)[0], "three");
    });
    assert.deepEqual(problems, []);
  });

  withServer("Chromium refuses a server that does not select the subprotocol", async (page, server) => {
    server.selects = false;
    await connect(page, server.url, ROOMS, { stream: false });
    await eventually(async () => assert.ok((await events(page, "close")).length >= 2));
    assert.deepEqual(await events(page, "open"), []);
  });

  withServer("handlers that throw are reported, and stop nothing", async (page, server, _defer, problems) => {
    await connect(page, server.url);
    await opened(page);
    await page.evaluate(() => {
      globalThis.socket.onitem = () => {
        throw new Error("of the handler");
      };
    });
    for (let count = 0; count < 3; count += 1) server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1, 2, 3]));
    await eventually(() => assert.deepEqual(problems, Array(3).fill("Error: of the handler")));
  });

  withServer("a full buffer refuses messages", async (page, server) => {
    server.mode = "refuse";
    await connect(page, server.url, [], { maxBufferedBytes: 10 });
    const send = (text) =>
      page.evaluate((text) => {
        try {
          globalThis.socket.send(text);
        } catch (error) {
          return error.name;
        }
      }, text);
    assert.equal(await send("1234567890"), undefined);
    assert.equal(await send("1"), "QuotaExceededError");
    server.selects = false;
    server.mode = "accept";
    await opened(page);
    assert.equal(await send("a message of more than ten bytes"), undefined);
    await eventually(() => assert.equal(server.received.length, 2));
  });

  withServer("without a network, there are no attempts", async (page, server) => {
    await connect(page, server.url.replace("127.0.0.1", "chat.test"));
    await opened(page);
    server.publish();
    await eventually(async () => assert.deepEqual(await ids(page), [1]));
    await page.context().setOffline(true);
    server.disconnect();
    await eventually(async () => assert.equal((await events(page, "close")).length, 1));
    const attempts = (await events(page, "connecting")).length;
    await pause(5_000);
    assert.equal((await events(page, "connecting")).length, attempts);
    assert.deepEqual(await state(page), [0, "socket"]);
    server.publish({ isSent: false });
    const onlineAt = await page.evaluate(() => Date.now());
    await page.context().setOffline(false);
    await opened(page, 2);
    const [, second] = await events(page, "open");
    assert.ok(second.at - onlineAt < 2_000, `${second.at - onlineAt} ms`);
    await eventually(async () => assert.deepEqual(await ids(page), [1, 2]));
  });
});
