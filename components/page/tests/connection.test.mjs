// The connection: reconnects, dead peers, and the fallback to a stream.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Backoff, Connection } from "../../../static/connection.js";

/** A fake WebSocket; the test is its peer. */
class Socket {
  sent = [];
  closed = false;

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  receive(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

let sockets;
let connection;
let now;

/** Advances the time in steps, so that timers set by timers start at the right time. */
function pass(ms) {
  for (let left = ms; left > 0; left -= 100) mock.timers.tick(Math.min(100, left));
  now += ms;
}

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  now = 0;
  sockets = [];
  const open = () => {
    sockets.push(new Socket());
    return sockets.at(-1);
  };
  connection = new Connection({ socket: open }, new Backoff({ random: () => 1 }));
  connection.start();
});

test("messages are emitted, and invalid ones are ignored", () => {
  const received = [];
  connection.addEventListener("message", ({ detail }) => received.push(detail));
  sockets[0].onopen();
  sockets[0].receive({ event: "pong" });
  for (const data of ["{", "null", "[]", '"text"', '{"event":1}']) sockets[0].onmessage({ data });
  assert.deepEqual(received, [{ event: "pong" }]);
  assert.equal(connection.state, "open");
});

test("the ping is the text that the component leaves to the host", () => {
  const texts = [];
  sockets[0].send = (text) => texts.push(text);
  sockets[0].onopen();
  assert.deepEqual(texts, ['{"event":"ping"}']);
});

test("a silent socket is replaced within ten seconds", () => {
  sockets[0].onopen();
  sockets[0].receive({ event: "pong" });
  pass(4_900);
  assert.equal(sockets[0].sent.length, 1, "no ping shortly after a message");
  pass(200);
  assert.equal(sockets[0].sent.length, 2);
  pass(4_900);
  assert.ok(sockets[0].closed);
  pass(500);
  assert.equal(sockets.length, 2);
});

test("a socket that responds is kept, with a ping every five seconds", () => {
  sockets[0].onopen();
  for (let ping = 1; ping <= 100; ping += 1) {
    assert.equal(sockets[0].sent.length, ping);
    sockets[0].receive({ event: "pong" });
    pass(5_000);
  }
  assert.equal(sockets.length, 1);
});

/** Returns the pauses between sockets within a minute, each of which opens, runs `use`, and closes. */
function measurePauses(use) {
  const opened = [];
  for (let handled = 0; now < 60_000; pass(100)) {
    if (sockets.length === handled) continue;
    handled = sockets.length;
    opened.push(now);
    sockets.at(-1).onopen();
    use(sockets.at(-1));
    sockets.at(-1).onclose();
  }
  return opened.slice(1).map((at, i) => at - opened[i]);
}

test("sockets that open and do not respond are tried less and less often", () => {
  assert.deepEqual(measurePauses(() => {}), [500, 1000, 2000, 4000, 8000, 16_000]);
});

test("sockets that respond once and close do not reset the backoff, one that lasts does", () => {
  const pauses = measurePauses((socket) => socket.receive({ event: "pong" }));
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16_000]);
  connection.wake();
  const { length } = sockets;
  sockets.at(-1).onopen();
  for (let messages = 0; messages < 3; messages += 1) {
    sockets.at(-1).receive({ event: "pong" });
    pass(4_000);
  }
  sockets.at(-1).receive({ event: "pong" });
  sockets.at(-1).onclose();
  pass(500);
  assert.equal(sockets.length, length + 1);
});

test("a socket that does not open is replaced", () => {
  pass(6_600);
  assert.ok(sockets[0].closed);
  assert.equal(sockets.length, 2);
});

test("wake reconnects at once, or pings an open socket", () => {
  sockets[0].onclose();
  sockets[1]?.onclose();
  assert.equal(connection.state, "waiting");
  assert.equal(connection.retryAt, 500);
  connection.wake();
  assert.equal(connection.state, "connecting");
  assert.equal(sockets.length, 2);
  sockets[1].onopen();
  sockets[1].receive({ event: "pong" });
  connection.wake();
  assert.equal(sockets[1].sent.length, 2);
  pass(4_000);
  assert.ok(sockets[1].closed);
});

test("wake replaces an attempt, unless it has just begun", () => {
  for (let attempts = 0; attempts < 8; attempts += 1) {
    sockets.at(-1).onclose();
    pass(30_000);
  }
  sockets.at(-1).onclose();
  while (connection.state !== "connecting") pass(100);
  const hanging = sockets.at(-1);
  const { length } = sockets;
  pass(2_000);
  connection.wake();
  assert.ok(hanging.closed);
  assert.equal(sockets.length, length + 1);
  connection.wake();
  assert.equal(sockets.length, length + 1, "woken for a second reason");
  sockets.at(-1).onclose();
  assert.equal(connection.retryAt - now, 500, "the backoff was reset");
});

test("the events of a discarded socket are ignored", () => {
  sockets[0].onopen();
  pass(4_000);
  assert.ok(sockets[0].closed);
  assert.equal(sockets[0].onmessage, null);
  assert.equal(sockets[0].onclose, null);
  assert.equal(connection.send({ event: "ping" }), false);
});

/** Replaces `connection` by one with a stream transport, and returns its streams. */
function withStream() {
  // Drops the timers of the first connection.
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const streams = [];
  sockets = [];
  const add = (list) => () => {
    list.push(new Socket());
    return list.at(-1);
  };
  connection = new Connection(
    { socket: add(sockets), stream: add(streams) },
    new Backoff({ random: () => 1 }),
  );
  connection.start();
  return streams;
}

/** Closes WebSockets until a stream is tried. */
function failSockets(streams) {
  while (streams.length === 0) {
    sockets.at(-1).onclose();
    pass(1_000);
  }
}

test("a stream is used where WebSockets do not work", () => {
  const streams = withStream();
  failSockets(streams);
  assert.equal(sockets.length, 2);
  assert.equal(connection.transport, "stream");
  streams[0].onopen();
  assert.equal(connection.state, "open");
  assert.deepEqual(streams[0].sent, [{ event: "ping" }]);
  streams[0].receive({ event: "pong" });

  // WebSockets are tried less and less often, and the stream stays open.
  const tried = [];
  for (let minute = 0; minute < 40; minute += 1) {
    for (let pings = 0; pings < 12; pings += 1) {
      if (sockets.at(-1).onclose) {
        tried.push(minute);
        sockets.at(-1).onclose();
      }
      streams[0].receive({ event: "pong" });
      pass(5_000);
    }
  }
  assert.deepEqual(tried, [0, 1, 3, 7, 15, 25, 35]);
  assert.equal(streams.length, 1);
  assert.equal(connection.transport, "stream");
});

test("a WebSocket that works replaces the stream", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  let opened = 0;
  connection.addEventListener("open", () => (opened += 1));
  sockets.at(-1).onopen();
  assert.ok(!streams[0].closed, "nothing was received on the WebSocket yet");
  assert.deepEqual(sockets.at(-1).sent, [{ event: "ping" }]);
  sockets.at(-1).receive({ event: "pong" });
  assert.ok(streams[0].closed);
  assert.equal(opened, 1, "missed messages are fetched");
  assert.deepEqual([connection.state, connection.transport], ["open", "socket"]);
  sockets.at(-1).receive({ event: "pong" });
  const { length } = sockets.at(-1).sent;
  pass(5_000);
  assert.equal(sockets.at(-1).sent.length, length + 1);
});

test("the first message of the new WebSocket is not lost", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  const received = [];
  connection.addEventListener("message", ({ detail }) => received.push(detail.event));
  sockets.at(-1).onopen();
  sockets.at(-1).receive({ event: "order-received" });
  assert.deepEqual(received, ["order-received"]);
});

test("WebSockets that open and carry nothing do not replace the stream", () => {
  const streams = withStream();
  const tried = [];
  let onStream = 0;
  for (let handled = 0; now < 1_800_000; pass(100)) {
    for (; handled < sockets.length; handled += 1) {
      tried.push(now);
      sockets[handled].onopen();
    }
    const stream = streams.at(-1);
    if (stream?.onopen && connection.state === "connecting") stream.onopen();
    if (stream?.onmessage && now % 5_000 === 0) stream.receive({ event: "pong" });
    if (connection.state === "open" && connection.transport === "stream") onStream += 100;
  }
  assert.equal(streams.length, 1);
  assert.ok(onStream > 1_780_000, `${onStream} ms of half an hour`);
  // Two before the stream, one beside it, then less and less often.
  const pauses = tried.slice(2).map((at, i, all) => Math.round((at - (all[i - 1] ?? at)) / 60_000));
  assert.deepEqual(pauses, [0, 1, 2, 4, 8, 10]);
});

test("a reconnected stream does not retry at once the WebSocket that failed beside the last", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  sockets.at(-1).onclose();
  streams[0].onclose();
  while (streams.length === 1) {
    sockets.at(-1).onclose?.();
    pass(1_000);
  }
  const { length } = sockets;
  streams[1].onopen();
  assert.equal(sockets.length, length);
});

test("a WebSocket is tried after a stream is lost", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  streams[0].receive({ event: "pong" });
  const upgrade = sockets.at(-1);
  streams[0].onclose();
  assert.ok(upgrade.closed, "the WebSocket beside it is discarded, too");
  const { length } = sockets;
  pass(2_000);
  assert.equal(sockets.length, length + 1);
  assert.equal(connection.transport, "socket");
});

test("both transports are retried forever", () => {
  const streams = withStream();
  for (let attempts = 0; attempts < 30; attempts += 1) {
    const socket = connection.transport === "stream" ? streams.at(-1) : sockets.at(-1);
    socket.onclose();
    pass(30_000 - 6_000);
    if (connection.state === "waiting") pass(6_000);
  }
  assert.ok(sockets.length >= 15 && streams.length >= 8, `${sockets.length}, ${streams.length}`);
});
