// The event stream that replaces WebSockets where they do not work.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { connect, pass, settled, sockets, sources, window } from "./support.mjs";

const ROOMS = "rooms.v1";
const sent = [];
const APPLICATION = {
  ping: "ping",
  pong: "pong",
  stream: {
    url: "/stream",
    events: ["created", "updated"],
    send: async (data) => {
      sent.push(data);
      return data === "ping" ? ["pong"] : [`reply to ${data}`];
    },
  },
};

const item = (id) => ({ $: "item", channel: "a", id, data: id });

/** Fails WebSockets until a stream is tried, and returns it. */
async function failSockets() {
  const { length } = sources;
  while (sources.length === length) {
    sockets.at(-1).end();
    await pass(500);
  }
  return sources.at(-1);
}

test("a stream is used where WebSockets do not work", async () => {
  sent.length = 0;
  const [client, events] = await connect("/chat", [], APPLICATION);
  const stream = await failSockets();
  assert.equal(sockets.length, 2);
  assert.equal(client.transport, "stream");
  assert.equal(stream.url, "https://app.example/stream");
  events.length = 0;
  stream.accept();
  assert.deepEqual(sent, ["ping"]);
  stream.receive("a", "created");
  stream.receive("b", "updated");
  stream.receive("c", "other");
  client.send("d");
  await settled();
  assert.deepEqual(events, ["open", "refetch", "message a", "message b", "message reply to d"]);
  assert.equal(client.url, stream.url);

  // WebSockets are tried less and less often, and the stream stays open.
  const tried = [];
  for (let minute = 0; minute < 40; minute += 1) {
    for (let pings = 0; pings < 12; pings += 1) {
      if (sockets.at(-1).onclose) {
        tried.push(minute);
        sockets.at(-1).end();
      }
      await pass(5_000);
    }
  }
  assert.deepEqual(tried, [0, 1, 3, 7, 15, 25, 35]);
  assert.equal(sources.length, 1);
  assert.equal(client.transport, "stream");
});

test("a WebSocket that answers replaces the stream", async () => {
  const [client, events] = await connect("/chat", [], APPLICATION);
  const stream = await failSockets();
  stream.accept();
  await settled();
  sockets.at(-1).end();
  await pass(60_000);
  const socket = sockets.at(-1);
  socket.accept();
  assert.ok(!stream.isClosed, "nothing was received on the WebSocket yet");
  assert.deepEqual(socket.sent, ["ping"]);
  events.length = 0;
  socket.receive("a");
  assert.ok(stream.isClosed);
  assert.deepEqual(events, ["open", "refetch", "message a"]);
  assert.equal(client.transport, "socket");
  assert.equal(client.url, socket.url);
  await pass(5_000);
  assert.equal(socket.sent.length, 2);

  // No other one is tried while it works. Beside the next stream, one is tried at once again.
  const { length } = sockets;
  for (let pings = 0; pings < 200; pings += 1) {
    socket.receive("pong");
    await pass(5_000);
  }
  assert.equal(sockets.length, length);
  socket.end();
  await pass(500);
  const next = await failSockets();
  const tried = sockets.length;
  next.accept();
  await settled();
  assert.equal(sockets.length, tried + 1);
});

test("WebSockets that open and carry nothing do not replace the stream", async () => {
  const [client] = await connect("/chat", [], APPLICATION);
  const tried = [];
  let onStream = 0;
  for (let handled = 0, start = Date.now(); Date.now() < start + 1_800_000; await pass(100)) {
    for (; handled < sockets.length; handled += 1) {
      tried.push(Date.now());
      sockets[handled].accept();
    }
    const stream = sources.at(-1);
    if (stream?.readyState === EventSource.CONNECTING) stream.accept();
    if (client.readyState === 1 && client.transport === "stream") onStream += 100;
  }
  assert.equal(sources.length, 1);
  assert.ok(onStream > 1_780_000, `${onStream} ms of half an hour`);
  // Two before the stream, one beside it, then less and less often.
  const pauses = tried.slice(2).map((at, i, all) => Math.round((at - (all[i - 1] ?? at)) / 60_000));
  assert.deepEqual(pauses, [0, 1, 2, 4, 8, 10]);
});

test("a reconnected stream does not retry at once the WebSocket that failed beside the last", async () => {
  await connect("/chat", [], APPLICATION);
  const stream = await failSockets();
  stream.accept();
  await settled();
  sockets.at(-1).end();
  stream.fail(true);
  await pass(500);
  const next = await failSockets();
  const { length } = sockets;
  next.accept();
  await settled();
  assert.equal(sockets.length, length);
});

test("a WebSocket is tried first after a stream is lost", async () => {
  const [client, events] = await connect("/chat", [], APPLICATION);
  const stream = await failSockets();
  stream.accept();
  await settled();
  const candidate = sockets.at(-1);
  const { length: before } = events;
  stream.fail(false);
  assert.equal(client.readyState, 1, "the browser reconnects");
  stream.accept();
  assert.equal(events.length, before, "and the server resumes");
  stream.fail(true);
  assert.ok(candidate.isClosed, "the WebSocket beside it is discarded, too");
  const { length } = sockets;
  await pass(2_000);
  assert.equal(sockets.length, length + 1);
  assert.equal(client.transport, "socket");
});

test("when the network is back, a WebSocket is tried beside the stream", async () => {
  await connect("/chat", [], APPLICATION);
  (await failSockets()).accept();
  await settled();
  sockets.at(-1).end();
  const { length } = sockets;
  window.dispatchEvent(new Event("online"));
  await settled();
  assert.equal(sockets.length, length + 1);
});

test("both transports are retried forever", async () => {
  const [client] = await connect("/chat", [], APPLICATION);
  for (let attempts = 0; attempts < 30; attempts += 1) {
    if (client.transport === "stream") sources.at(-1).fail(true);
    else sockets.at(-1).end();
    await pass(client.retryAt - Date.now());
  }
  assert.ok(sockets.length >= 15 && sources.length >= 8, `${sockets.length}, ${sources.length}`);
});

test("a request that fails counts as no reply", async () => {
  mock.method(console, "warn", () => {});
  const send = async () => {
    throw new Error("offline");
  };
  const [client, events] = await connect("/chat", [], { ping: "ping", stream: { send } });
  (await failSockets()).accept();
  await pass(4_000);
  assert.deepEqual(events.slice(-2), ["error", "close 1006"]);
  assert.equal(console.warn.mock.callCount(), 1);
  assert.equal(client.transport, "stream");
});

test("a reply after the close is ignored", async () => {
  const [client, events] = await connect("/chat", [], APPLICATION);
  (await failSockets()).accept();
  client.send("a");
  client.close();
  const { length } = events;
  await settled();
  assert.equal(events.length, length);
  assert.equal(events.at(-1), "close 1005");
});

test("without a way to send, messages wait for a WebSocket", async () => {
  const [client] = await connect("/chat", [], { stream: true, maxBufferedMessages: 2 });
  const stream = await failSockets();
  assert.equal(stream.url, "https://app.example/chat");
  client.send("a");
  stream.accept();
  assert.equal(client.readyState, 1);
  client.send("b");
  assert.throws(() => client.send("c"), { name: "QuotaExceededError" });
  assert.equal(client.bufferedAmount, 2);
  await settled();
  sockets.at(-1).accept();
  assert.deepEqual(sockets.at(-1).sent, ["a", "b"]);
  assert.equal(client.transport, "socket");
});

test("without the option, only WebSockets are tried", async () => {
  await connect();
  for (let attempts = 0; attempts < 10; attempts += 1) {
    sockets.at(-1).end();
    await pass(30_000);
  }
  assert.equal(sources.length, 0);
});

test("a URL that cannot be had says nothing about WebSockets", async () => {
  let isBroken = true;
  const url = () => {
    if (isBroken) throw new Error("no token");
    return "/chat";
  };
  const [client] = await connect(url, ROOMS);
  for (let attempts = 0; attempts < 5; attempts += 1) {
    await pass(client.retryAt - Date.now());
    assert.equal(client.transport, "socket");
  }
  isBroken = false;
  await pass(30_000);
  assert.ok(sockets.length > 0);
});

test("a stream of rooms resumes, and its gaps are fetched", async () => {
  const [client, events] = await connect("/chat", ROOMS, { positions: [["a", 5]] });
  const stream = await failSockets();
  assert.equal(stream.url, "https://app.example/chat?resume=5,a");
  stream.accept();
  assert.equal(client.readyState, 0);
  events.length = 0;
  stream.receive({ $: "open", recovered: true });
  stream.receive(item(6));
  stream.receive(item(9));
  stream.receive(item(10));
  assert.deepEqual(events, ["open recovered", "item a 6", "refetch a", "item a 9", "item a 10"]);

  // A WebSocket takes over where the stream is.
  await settled();
  const socket = sockets.at(-1);
  assert.equal(socket.url, "wss://app.example/chat?resume=10,a");
  socket.accept(ROOMS);
  stream.receive(item(11));
  socket.receive({ $: "open", recovered: true });
  for (const id of [11, 12]) socket.receive(item(id));
  assert.deepEqual(events.slice(5), ["item a 11", "open recovered", "item a 12"]);
  assert.ok(stream.isClosed);
});

test("a stream of rooms that the browser reconnects is followed", async () => {
  const [, events] = await connect("/chat", ROOMS);
  const stream = await failSockets();
  stream.accept();
  stream.receive({ $: "open" });
  stream.receive(item(1));
  events.length = 0;
  const count = (version) => stream.receive({ $: "count", channel: "a", count: version, version });
  count(8);
  stream.fail(false);
  stream.accept();
  stream.receive({ $: "open", recovered: true });
  stream.receive(item(2));
  // Versions are comparable within one response only.
  count(7);
  assert.deepEqual(events.splice(0), ["count a 8", "item a 2", "count a 7"]);
  stream.fail(false);
  stream.accept();
  stream.receive({ $: "open" });
  stream.receive(item(1));
  assert.deepEqual(events, ["refetch", "item a 1"]);
});

test("a stream with pongs that falls silent is left", async () => {
  const [client] = await connect("/chat", ROOMS);
  const stream = await failSockets();
  stream.accept();
  stream.receive({ $: "open" });
  sockets.at(-1).end();
  await pass(50_000);
  assert.equal(client.readyState, 1, "no pong was seen yet");
  stream.receive({ $: "pong" });
  await pass(24_000);
  stream.receive({ $: "pong" });
  await pass(24_000);
  assert.ok(!stream.isClosed);
  await pass(1_000);
  assert.ok(stream.isClosed);
});
