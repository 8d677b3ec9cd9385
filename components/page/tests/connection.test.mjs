// The connection comes back, and notices a socket that is dead but not closed.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Backoff, Connection } from "../../../static/connection.js";

/** What the browser gives: a socket of which the test is the other end. */
class Socket {
  sent = [];
  closed = false;

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

let sockets;
let connection;
let now;

/** In steps: a timer set by a timer starts when the other one fires. */
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

test("messages are handed on; what is no message is not", () => {
  const heard = [];
  connection.addEventListener("message", ({ detail }) => heard.push(detail));
  sockets[0].onopen();
  sockets[0].say({ event: "pong" });
  for (const data of ["{", "null", "[]", '"text"', '{"event":1}']) sockets[0].onmessage({ data });
  assert.deepEqual(heard, [{ event: "pong" }]);
  assert.equal(connection.state, "open");
});

test("a socket that goes silent is replaced within ten seconds", () => {
  sockets[0].onopen();
  sockets[0].say({ event: "pong" });
  pass(4_900);
  assert.equal(sockets[0].sent.length, 1, "no ping while there is something to hear");
  pass(200);
  assert.equal(sockets[0].sent.length, 2);
  pass(4_900);
  assert.ok(sockets[0].closed);
  pass(500);
  assert.equal(sockets.length, 2);
});

test("a socket that answers is kept, with one ping every five seconds", () => {
  sockets[0].onopen();
  for (let ping = 1; ping <= 100; ping += 1) {
    assert.equal(sockets[0].sent.length, ping);
    sockets[0].say({ event: "pong" });
    pass(5_000);
  }
  assert.equal(sockets.length, 1);
});

/** The pauses between the sockets of a minute, each of which opens, does as `meet` says, and closes. */
function pausesOf(meet) {
  const opened = [];
  for (let seen = 0; now < 60_000; pass(100)) {
    if (sockets.length === seen) continue;
    seen = sockets.length;
    opened.push(now);
    sockets.at(-1).onopen();
    meet(sockets.at(-1));
    sockets.at(-1).onclose();
  }
  return opened.slice(1).map((at, i) => at - opened[i]);
}

test("one that opens and answers nothing is tried less and less often", () => {
  assert.deepEqual(pausesOf(() => {}), [500, 1000, 2000, 4000, 8000, 16_000]);
});

test("so is one that answers once and closes, until one lasts", () => {
  const pauses = pausesOf((socket) => socket.say({ event: "pong" }));
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16_000]);
  connection.wake();
  const { length } = sockets;
  sockets.at(-1).onopen();
  for (let seen = 0; seen < 3; seen += 1) {
    sockets.at(-1).say({ event: "pong" });
    pass(4_000);
  }
  sockets.at(-1).say({ event: "pong" });
  sockets.at(-1).onclose();
  pass(500);
  assert.equal(sockets.length, length + 1);
});

test("one that never opens is given up", () => {
  pass(6_600);
  assert.ok(sockets[0].closed);
  assert.equal(sockets.length, 2);
});

test("being woken ends the wait, or tests the socket there is", () => {
  sockets[0].onclose();
  sockets[1]?.onclose();
  assert.equal(connection.state, "waiting");
  assert.equal(connection.retryAt, 500);
  connection.wake();
  assert.equal(connection.state, "connecting");
  assert.equal(sockets.length, 2);
  sockets[1].onopen();
  sockets[1].say({ event: "pong" });
  connection.wake();
  assert.equal(sockets[1].sent.length, 2);
  pass(4_000);
  assert.ok(sockets[1].closed);
});

test("being woken gives up a try that began before, and not one that has just begun", () => {
  for (let tries = 0; tries < 8; tries += 1) {
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
  assert.equal(sockets.length, length + 1, "the page became visible, too");
  sockets.at(-1).onclose();
  assert.equal(connection.retryAt - now, 500, "and it does not wait for long again");
});

test("a socket that was given up is not heard any more", () => {
  sockets[0].onopen();
  pass(4_000);
  assert.ok(sockets[0].closed);
  assert.equal(sockets[0].onmessage, null);
  assert.equal(sockets[0].onclose, null);
  assert.equal(connection.send({ event: "ping" }), false);
});

/** A connection that has both ways; the sockets of the second are in `streams`. */
function withStream() {
  // The one without a stream is forgotten, with its timers.
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

/** Fails WebSockets until the stream is tried. */
function failSockets(streams) {
  while (streams.length === 0) {
    sockets.at(-1).onclose();
    pass(1_000);
  }
}

test("where no WebSocket gets through, a stream does", () => {
  const streams = withStream();
  failSockets(streams);
  assert.equal(sockets.length, 2);
  assert.equal(connection.kind, "stream");
  streams[0].onopen();
  assert.equal(connection.state, "open");
  assert.deepEqual(streams[0].sent, [{ event: "ping" }]);
  streams[0].say({ event: "pong" });

  // A WebSocket is tried now and then, and less and less often; the stream stays.
  const tried = [];
  for (let minute = 0; minute < 40; minute += 1) {
    for (let seen = 0; seen < 12; seen += 1) {
      if (sockets.at(-1).onclose) {
        tried.push(minute);
        sockets.at(-1).onclose();
      }
      streams[0].say({ event: "pong" });
      pass(5_000);
    }
  }
  assert.deepEqual(tried, [0, 1, 3, 7, 15, 25, 35]);
  assert.equal(streams.length, 1);
  assert.equal(connection.kind, "stream");
});

test("a WebSocket that gets through again takes over", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  let opened = 0;
  connection.addEventListener("open", () => (opened += 1));
  sockets.at(-1).onopen();
  assert.ok(!streams[0].closed, "it has yet to carry something");
  assert.deepEqual(sockets.at(-1).sent, [{ event: "ping" }]);
  sockets.at(-1).say({ event: "pong" });
  assert.ok(streams[0].closed);
  assert.equal(opened, 1, "what was missed meanwhile is asked for");
  assert.deepEqual([connection.state, connection.kind], ["open", "socket"]);
  sockets.at(-1).say({ event: "pong" });
  const { length } = sockets.at(-1).sent;
  pass(5_000);
  assert.equal(sockets.at(-1).sent.length, length + 1);
});

test("the message by which a WebSocket takes over is not lost", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  const heard = [];
  connection.addEventListener("message", ({ detail }) => heard.push(detail.event));
  sockets.at(-1).onopen();
  sockets.at(-1).say({ event: "order-received" });
  assert.deepEqual(heard, ["order-received"]);
});

test("WebSockets that open and carry nothing leave the stream alone", () => {
  const streams = withStream();
  const tried = [];
  let onStream = 0;
  for (let seen = 0; now < 1_800_000; pass(100)) {
    for (; seen < sockets.length; seen += 1) {
      tried.push(now);
      sockets[seen].onopen();
    }
    const stream = streams.at(-1);
    if (stream?.onopen && connection.state === "connecting") stream.onopen();
    if (stream?.onmessage && now % 5_000 === 0) stream.say({ event: "pong" });
    if (connection.state === "open" && connection.kind === "stream") onStream += 100;
  }
  assert.equal(streams.length, 1);
  assert.ok(onStream > 1_780_000, `${onStream} ms of half an hour`);
  // Two before the stream, one beside it, and then less and less often.
  const pauses = tried.slice(2).map((at, i, all) => Math.round((at - (all[i - 1] ?? at)) / 60_000));
  assert.deepEqual(pauses, [0, 1, 2, 4, 8, 10]);
});

test("a stream that comes back does not begin with a WebSocket that failed beside the last", () => {
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

test("a stream that is lost leaves WebSockets their turn", () => {
  const streams = withStream();
  failSockets(streams);
  streams[0].onopen();
  streams[0].say({ event: "pong" });
  const better = sockets.at(-1);
  streams[0].onclose();
  assert.ok(better.closed, "what was tried beside it is given up, too");
  const { length } = sockets;
  pass(2_000);
  assert.equal(sockets.length, length + 1);
  assert.equal(connection.kind, "socket");
});

test("with neither way there is no end of trying", () => {
  const streams = withStream();
  for (let tries = 0; tries < 30; tries += 1) {
    const socket = connection.kind === "stream" ? streams.at(-1) : sockets.at(-1);
    socket.onclose();
    pass(30_000 - 6_000);
    if (connection.state === "waiting") pass(6_000);
  }
  assert.ok(sockets.length >= 15 && streams.length >= 8, `${sockets.length}, ${streams.length}`);
});
