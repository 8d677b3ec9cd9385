// The connection comes back, and notices a socket that is dead but not closed.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Backoff } from "../../../static/backoff.js";
import { Connection } from "../../../static/connection.js";

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
  connection = new Connection(open, new Backoff({ random: () => 1 }));
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

test("one that opens and answers nothing is tried less and less often", () => {
  const opened = [];
  for (let seen = 0; now < 60_000; pass(100)) {
    if (sockets.length === seen) continue;
    seen = sockets.length;
    opened.push(now);
    sockets.at(-1).onopen();
    sockets.at(-1).onclose();
  }
  const pauses = opened.slice(1).map((at, i) => at - opened[i]);
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 16_000]);
});

test("one that never opens is given up", () => {
  pass(10_600);
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

test("a socket that was given up is not heard any more", () => {
  sockets[0].onopen();
  pass(4_000);
  assert.ok(sockets[0].closed);
  assert.equal(sockets[0].onmessage, null);
  assert.equal(sockets[0].onclose, null);
  assert.equal(connection.send({ event: "ping" }), false);
});
