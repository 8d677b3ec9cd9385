// Connecting and reconnecting: URLs, timeouts, heartbeats, and what ends a connection for good.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ReconnectingSocket, connect, network, pass, settled, sockets, window } from "./support.mjs";

const HEARTBEAT = { ping: "ping", pong: "pong" };
const { CONNECTING, OPEN, CLOSING, CLOSED } = ReconnectingSocket;

test("a plain server gets and sends messages as with a WebSocket", async () => {
  const [client, events] = await connect("/chat", ["a", "b"]);
  assert.equal(sockets[0].url, "wss://app.example/chat");
  assert.deepEqual(sockets[0].protocols, ["a", "b"]);
  assert.equal(client.readyState, CONNECTING);
  sockets[0].accept("b");
  assert.equal(client.readyState, OPEN);
  assert.equal(client.protocol, "b");
  assert.equal(client.url, "wss://app.example/chat");
  client.send("hello");
  sockets[0].receive('{"$":"ping"}');
  sockets[0].receive("");
  assert.deepEqual(sockets[0].sent, ["hello"]);
  assert.deepEqual(events, ["open", "refetch", 'message {"$":"ping"}', "message "]);
  // Nothing is known of its replies to pings, so silence means nothing.
  await pass(600_000);
  assert.equal(sockets[0].sent.length, 1);
  assert.equal(client.readyState, OPEN);
});

test("constants, handlers and binaryType are those of a WebSocket", async () => {
  const [client] = await connect();
  assert.deepEqual([CONNECTING, OPEN, CLOSING, CLOSED], [0, 1, 2, 3]);
  assert.deepEqual([client.CONNECTING, client.OPEN, client.CLOSING, client.CLOSED], [0, 1, 2, 3]);
  const handled = [];
  for (const type of ["open", "message", "close", "error"]) {
    assert.equal(client[`on${type}`], null);
    client[`on${type}`] = function (event) {
      assert.equal(this, client);
      handled.push(event.type);
    };
  }
  client.binaryType = "arraybuffer";
  assert.equal(sockets[0].binaryType, "arraybuffer");
  sockets[0].accept();
  sockets[0].receive("a");
  sockets[0].end();
  assert.deepEqual(handled, ["open", "message", "error", "close"]);
  await pass(500);
  assert.equal(sockets[1].binaryType, "arraybuffer");
  assert.equal(client.binaryType, "arraybuffer");
});

test("each attempt asks for its URL", async () => {
  let count = 0;
  const [client] = await connect(async () => new URL(`http://other.example/chat?token=${(count += 1)}`));
  assert.equal(sockets[0].url, "ws://other.example/chat?token=1");
  sockets[0].end();
  await pass(500);
  assert.equal(sockets[1].url, "ws://other.example/chat?token=2");
  assert.equal(client.url, sockets[1].url);
});

test("an attempt without a URL fails and is repeated", async () => {
  const errors = [];
  let isBroken = true;
  const [client, events] = await connect(async () => {
    if (isBroken) throw new Error("no token");
    return "/chat";
  });
  client.onerror = ({ error }) => errors.push(error.message);
  assert.deepEqual(events, ["error", "close 1006"]);
  await pass(500);
  assert.deepEqual(errors, ["no token"]);
  isBroken = false;
  await pass(1_000);
  assert.equal(sockets.length, 1);
});

test("an attempt ends after the timeout, even without a URL", async () => {
  let resolve;
  const [client, events] = await connect(() => new Promise((it) => (resolve = it)), [], { connectTimeout: 2_000 });
  const late = resolve;
  await pass(2_000);
  assert.deepEqual(events, ["error", "close 1006"]);
  late("/late");
  await settled();
  assert.equal(sockets.length, 0, "the late URL is ignored");
  await pass(500);
  resolve("/chat");
  await settled();
  assert.equal(sockets[0].url, "wss://app.example/chat");
  await pass(1_900);
  assert.equal(sockets[0].isClosed, false);
  await pass(100);
  assert.ok(sockets[0].isClosed);
  assert.equal(client.retryAt, Date.now() + 1_000);
});

test("the late error of an attempt's URL does not end the next attempt", async () => {
  const rejects = [];
  const [client, events] = await connect(() => new Promise((_, reject) => rejects.push(reject)), [], { connectTimeout: 2_000 });
  await pass(2_500);
  assert.equal(rejects.length, 2);
  events.length = 0;
  rejects[0](new Error("late"));
  await settled();
  assert.deepEqual(events, []);
  assert.equal(client.retryAt, null);
});

test("a URL that the WebSocket refuses is reported", async () => {
  const [client, events] = await connect("https://[");
  assert.deepEqual(events, ["error", "close 1006"]);
  assert.equal(client.readyState, CONNECTING);
  assert.equal(sockets.length, 0);
});

test("an option that is undefined has its default", async () => {
  await connect("/chat", [], { connectTimeout: undefined, shouldReconnect: undefined, backoff: undefined });
  await pass(5_900);
  assert.equal(sockets[0].isClosed, false);
  await pass(100);
  assert.ok(sockets[0].isClosed);
  await pass(500);
  assert.equal(sockets.length, 2);
});

test("the delays double, and start again after a connection that lasted", async () => {
  const [client] = await connect();
  for (const delay of [500, 1_000, 2_000, 4_000]) {
    sockets.at(-1).end();
    assert.equal(client.retryAt, Date.now() + delay);
    await pass(delay);
    assert.equal(client.retryAt, null);
  }
  sockets.at(-1).accept();
  await pass(4_000);
  sockets.at(-1).end();
  assert.equal(client.retryAt, Date.now() + 8_000, "it lasted for four seconds");
  await pass(8_000);
  sockets.at(-1).accept();
  await pass(5_100);
  sockets.at(-1).end();
  assert.equal(client.retryAt, Date.now() + 500);
});

test("the first ping is sent at once, in the configured text", async () => {
  const [, events] = await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  assert.deepEqual(sockets[0].sent, ["ping"]);
  sockets[0].receive("pong");
  sockets[0].receive("pong!");
  assert.deepEqual(events, ["open", "refetch", "message pong!"]);
});

test("a silent socket is replaced within ten seconds", async () => {
  const [client, events] = await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  sockets[0].receive("pong");
  await pass(4_900);
  assert.equal(sockets[0].sent.length, 1, "no ping shortly after a message");
  await pass(200);
  assert.equal(sockets[0].sent.length, 2);
  await pass(3_900);
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(events.slice(-2), ["error", "close 1006"]);
  await pass(500);
  assert.equal(sockets.length, 2);
  // A dead socket may close minutes later.
  assert.equal(sockets[0].onclose, null);
  assert.equal(client.readyState, CONNECTING);
});

test("a socket that responds is kept, with a ping every five seconds", async () => {
  await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  for (let ping = 1; ping <= 100; ping += 1) {
    assert.equal(sockets[0].sent.length, ping);
    sockets[0].receive("pong");
    await pass(5_000);
  }
  assert.equal(sockets.length, 1);
});

/** Returns the pauses between sockets within a minute, each of which opens, runs `use`, and closes. */
async function measurePauses(use) {
  const opened = [];
  for (const start = Date.now(); Date.now() < start + 60_000; await pass(100)) {
    if (sockets.length === opened.length) continue;
    opened.push(Date.now());
    sockets.at(-1).accept();
    use(sockets.at(-1));
    sockets.at(-1).end();
  }
  return opened.slice(1).map((at, i) => at - opened[i]);
}

for (const [name, use] of [
  ["do not respond", () => {}],
  ["respond once", (socket) => socket.receive("pong")],
]) {
  test(`sockets that ${name} and close are tried less and less often`, async () => {
    await connect("/chat", [], HEARTBEAT);
    assert.deepEqual(await measurePauses(use), [500, 1000, 2000, 4000, 8000, 16_000]);
  });
}

test("sockets that respond once and stall are tried less and less often", async () => {
  const [client] = await connect("/chat", [], HEARTBEAT);
  for (const delay of [500, 1_000, 2_000]) {
    sockets.at(-1).accept();
    sockets.at(-1).receive("pong");
    await pass(9_000);
    assert.equal(client.retryAt, Date.now() + delay);
    await pass(delay);
  }
});

for (const [name, wake] of [
  ["the network", () => window.dispatchEvent(new Event("online"))],
  ["the page", () => document.dispatchEvent(new Event("visibilitychange"))],
]) {
  test(`when ${name} is back, a lost connection is replaced at once, and an open one is pinged`, async () => {
    const [client] = await connect("/chat", [], HEARTBEAT);
    for (let attempts = 0; attempts < 6; attempts += 1) {
      sockets.at(-1).end();
      await pass(client.retryAt - Date.now());
    }
    sockets.at(-1).end();
    const { length } = sockets;
    wake();
    await settled();
    assert.equal(sockets.length, length + 1);
    wake();
    await settled();
    assert.equal(sockets.length, length + 1, "an attempt that has just begun goes on");
    await pass(1_000);
    wake();
    await settled();
    assert.equal(sockets.length, length + 2, "an older attempt may hang, so it is replaced");
    assert.ok(sockets.at(-2).isClosed);
    sockets.at(-1).end();
    assert.equal(client.retryAt, Date.now() + 500, "the backoff was reset");
    await pass(500);
    const socket = sockets.at(-1);
    socket.accept();
    socket.receive("pong");
    wake();
    assert.equal(socket.sent.length, 2);
    await pass(4_000);
    assert.ok(socket.isClosed);
  });
}

test("a page that becomes hidden does nothing", async () => {
  await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  document.hidden = true;
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(sockets[0].sent.length, 1);
});

test("without a network, attempts wait for it", async () => {
  const [client] = await connect();
  network.onLine = false;
  sockets[0].end();
  await pass(600_000);
  assert.equal(sockets.length, 1);
  assert.equal(client.readyState, CONNECTING);
  assert.equal(client.retryAt, null);
  network.onLine = true;
  window.dispatchEvent(new Event("online"));
  await settled();
  assert.equal(sockets.length, 2);
});

test("without a network, a server on the same machine is tried", async () => {
  for (const url of ["ws://localhost:3000/", "ws://127.0.0.1/", "ws://[::1]:80/"]) {
    await connect(url);
    network.onLine = false;
    sockets.at(-1).end();
    const { length } = sockets;
    await pass(500);
    assert.equal(sockets.length, length + 1, url);
  }
});

test("close codes that say no end the connection for good", async () => {
  for (const [code, isFinal] of [
    [1000, false],
    [1001, false],
    [1006, false],
    [1008, true],
    [1011, false],
    [1012, false],
    [1013, false],
    [3000, false],
    [4000, true],
    [4999, true],
  ]) {
    const [client, events] = await connect();
    sockets.at(-1).accept();
    const { length } = sockets;
    sockets.at(-1).end(code, "why");
    assert.equal(client.readyState, isFinal ? CLOSED : CONNECTING, `${code}`);
    assert.equal(client.retryAt === null, isFinal);
    assert.equal(events.at(-1), `close ${code}`);
    assert.equal(events.includes("error"), code === 1006);
    await pass(60_000);
    window.dispatchEvent(new Event("online"));
    await settled();
    assert.equal(sockets.length > length, !isFinal, `${code}`);
    client.close();
  }
});

test("a closed client no longer listens to the page", async () => {
  const signals = [];
  globalThis.addEventListener = (_type, _listener, { signal }) => signals.push(signal);
  const [client] = await connect();
  assert.equal(signals[0].aborted, false);
  client.close();
  assert.equal(signals[0].aborted, true);
});

test("the application decides what is final", async () => {
  const seen = [];
  const shouldReconnect = ({ code, reason, wasClean }) => {
    seen.push([code, reason, wasClean]);
    return code !== 1000;
  };
  const [client] = await connect("/chat", [], { shouldReconnect });
  sockets[0].accept();
  sockets[0].end(4001, "again");
  await pass(500);
  sockets[1].accept();
  sockets[1].end(1000);
  assert.equal(client.readyState, CLOSED);
  assert.deepEqual(seen, [[4001, "again", true], [1000, "", true]]);
});

test("close sends the code, and waits for the server's", async () => {
  const [client, events] = await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  assert.throws(() => client.close(1001), { name: "InvalidAccessError" });
  assert.equal(client.readyState, OPEN);
  client.close(4000, "bye");
  assert.equal(client.readyState, CLOSING);
  assert.deepEqual(sockets[0].closeArgs, [4000, "bye"]);
  client.close();
  client.send("dropped");
  sockets[0].receive("last words");
  sockets[0].end(4000, "bye");
  assert.equal(client.readyState, CLOSED);
  assert.deepEqual(events, ["open", "refetch", "message last words", "close 4000"]);
  await pass(60_000);
  assert.equal(sockets.length, 1);
  assert.equal(sockets[0].sent.length, 1);
});

test("close does not wait for a server that is silent", async () => {
  const [client, events] = await connect();
  sockets[0].accept();
  client.close();
  await pass(6_000);
  assert.equal(client.readyState, CLOSED);
  assert.deepEqual(events.slice(2), ["error", "close 1006"]);
});

test("a server that goes on sending does not delay the close", async () => {
  const [client] = await connect();
  sockets[0].accept();
  client.close();
  for (let seconds = 0; seconds < 6; seconds += 1) {
    assert.equal(client.readyState, CLOSING);
    sockets[0].receive("more");
    await pass(1_000);
  }
  assert.equal(client.readyState, CLOSED);
});

test("close ends an attempt and a pause at once", async () => {
  for (const isPause of [false, true]) {
    const [client, events] = await connect();
    const { length } = sockets;
    if (isPause) sockets.at(-1).end();
    client.close();
    assert.equal(client.readyState, CLOSED);
    assert.equal(client.retryAt, null);
    assert.equal(events.at(-1), "close 1005");
    if (!isPause) assert.ok(sockets.at(-1).isClosed);
    await pass(60_000);
    window.dispatchEvent(new Event("online"));
    await settled();
    assert.equal(sockets.length, length);
  }
});

test("close in a handler ends everything", async () => {
  for (const type of ["open", "message", "close"]) {
    const [client, events] = await connect();
    client[`on${type}`] = () => client.close();
    const socket = sockets.at(-1);
    socket.accept();
    socket.receive("a");
    if (type === "close") socket.end();
    socket.end(1005);
    await pass(60_000);
    assert.equal(sockets.at(-1), socket);
    assert.equal(client.readyState, CLOSED, `${type}: ${events}`);
  }
});

test("reconnect replaces the connection, and revives a closed one", async () => {
  const [client, events] = await connect("/chat", [], HEARTBEAT);
  sockets[0].accept();
  client.reconnect();
  await settled();
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(events, ["open", "refetch", "close 1000"]);
  assert.equal(sockets.length, 2);
  client.close();
  assert.equal(client.readyState, CLOSED);
  client.reconnect();
  await settled();
  assert.equal(sockets.length, 3);
  sockets[2].accept();
  window.dispatchEvent(new Event("online"));
  assert.equal(sockets[2].sent.length, 2, "it listens to the network once");
});

test("a connection that is replaced as it opens asks for nothing", async () => {
  const [client, events] = await connect();
  client.addEventListener("open", () => client.reconnect(), { once: true });
  sockets[0].accept();
  await settled();
  assert.deepEqual(events, ["open", "close 1000"]);
  sockets[1].accept();
  assert.deepEqual(events.slice(2), ["open", "refetch"]);
});

test("an attempt is announced", async () => {
  const [client] = await connect();
  const states = [];
  client.onconnecting = () => states.push([client.readyState, client.retryAt]);
  sockets[0].end();
  await pass(500);
  assert.deepEqual(states, [[CONNECTING, null]]);
});

test("without a browser's globals, it works too", async () => {
  delete globalThis.document;
  delete globalThis.addEventListener;
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: undefined });
  const [client] = await connect("ws://chat.example/");
  sockets[0].end();
  await pass(500);
  sockets[1].accept();
  assert.equal(client.readyState, OPEN);
});
