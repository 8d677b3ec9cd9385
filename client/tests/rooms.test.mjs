// The subprotocol rooms.v1: items, gaps, resuming, and servers that break the rules.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ReconnectingSocket, connect as connectWith, pass, settled, sockets, window } from "./support.mjs";

const ROOMS = "rooms.v1";

const connect = (options) => connectWith("/chat", ROOMS, { stream: false, ...options });

const item = (id, channel = "a", data = id) => ({ $: "item", channel, id, data });

/** Connects, and returns what `connect` does after the server's first frame. */
async function open(options) {
  const [client, events] = await connect(options);
  sockets[0].accept(ROOMS);
  sockets[0].receive({ $: "open" });
  events.length = 0;
  return [client, events];
}

/** Loses the connection, and returns the next socket. */
async function lose() {
  const { length } = sockets;
  sockets.at(-1).end();
  while (sockets.length === length) await pass(500);
  return sockets.at(-1);
}

/** Returns the `resume` parameters of a socket. */
const resumed = ({ url }) => new URL(url).searchParams.getAll("resume");

test("the connection opens with the server's first frame", async () => {
  const [client, events] = await connect();
  assert.deepEqual(sockets[0].protocols, [ROOMS]);
  sockets[0].accept(ROOMS);
  assert.equal(client.readyState, ReconnectingSocket.CONNECTING);
  client.send("hello");
  sockets[0].receive({ $: "open" });
  assert.equal(client.readyState, ReconnectingSocket.OPEN);
  assert.deepEqual(sockets[0].sent, ["hello"]);
  assert.deepEqual(events, ["open", "refetch"]);
  assert.deepEqual(resumed(sockets[0]), []);
});

test("items are events, and other messages are untouched", async () => {
  const [client, events] = await open();
  const items = [];
  client.onitem = ({ data }) => items.push(data);
  sockets[0].receive(item(7, "a", { text: "hi" }));
  sockets[0].receive('{ "$": "item" }');
  sockets[0].receive("[1]");
  sockets[0].onmessage({ data: new Blob() });
  assert.deepEqual(items, [{ text: "hi" }]);
  assert.deepEqual(events, ["item a 7", 'message { "$": "item" }', "message [1]", "message [object Blob]"]);
  assert.deepEqual([...client.positions], [["a", 7]]);
});

test("duplicates are dropped", async () => {
  const [, events] = await open();
  for (const id of [7, 7, 8, 6, 8, 9]) sockets[0].receive(item(id));
  sockets[0].receive(item(1, "b"));
  assert.deepEqual(events, ["item a 7", "item a 8", "item a 9", "item b 1"]);
  assert.deepEqual(sockets[0].sent, []);
});

test("a gap is asked for once, and the items come in order", async () => {
  const [, events] = await open();
  for (const id of [1, 4, 6, 3]) sockets[0].receive(item(id));
  sockets[0].receive(item(1, "b"));
  assert.deepEqual(events.splice(0), ["item a 1", "item b 1"]);
  assert.deepEqual(sockets[0].sent.splice(0), ['{"$":"resume","channel":"a","id":1}']);
  for (const id of [2, 3, 4, 5, 6, 7]) sockets[0].receive(item(id));
  assert.deepEqual(events.splice(0), [2, 3, 4, 5, 6, 7].map((id) => `item a ${id}`));
  sockets[0].receive(item(9));
  assert.deepEqual(sockets[0].sent, ['{"$":"resume","channel":"a","id":7}']);
  sockets[0].receive(item(8));
  assert.deepEqual(events, ["item a 8", "item a 9"]);
});

test("a gap that was not filled before the loss is asked for again", async () => {
  const [, events] = await open();
  for (const id of [1, 3]) sockets[0].receive(item(id));
  events.length = 0;
  const socket = await lose();
  assert.deepEqual(resumed(socket), ["1,a"]);
  socket.accept(ROOMS);
  socket.receive({ $: "open", recovered: true });
  socket.receive(item(4));
  assert.deepEqual(socket.sent, ['{"$":"resume","channel":"a","id":1}']);
  socket.receive(item(2));
  assert.deepEqual(events.slice(2), ["open recovered", "item a 2"], "item 3 was on the lost connection");
});

test("a gap that cannot be filled is fetched", async () => {
  const [, events] = await open();
  for (const id of [1, 5]) sockets[0].receive(item(id));
  sockets[0].receive({ $: "reset", channel: "a" });
  sockets[0].receive(item(6));
  sockets[0].receive(item(7));
  assert.deepEqual(events, ["item a 1", "refetch a", "item a 6", "item a 7"]);
});

test("a server that does not fill a gap cannot fill the memory", async () => {
  const [client, events] = await open();
  sockets[0].receive(item(1));
  for (let id = 3; id < 103; id += 1) sockets[0].receive(item(id));
  assert.deepEqual(events.splice(0), ["item a 1"]);
  sockets[0].receive(item(103));
  sockets[0].receive(item(104));
  assert.deepEqual(events, ["refetch a", "item a 103", "item a 104"]);
  assert.equal(client.positions.get("a"), 104);
  assert.equal(sockets[0].sent.length, 1);
});

test("the next connection resumes", async () => {
  const [client, events] = await open();
  sockets[0].receive(item(7, "room:1"));
  sockets[0].receive(item(9, "room:1"));
  sockets[0].receive(item(3, "a, b&c"));
  events.length = 0;
  const socket = await lose();
  assert.equal(socket.url, "wss://app.example/chat?resume=7,room%3A1&resume=3,a%2C%20b%26c");
  assert.deepEqual(resumed(socket), ["7,room:1", "3,a, b&c"]);
  socket.accept(ROOMS);
  socket.receive({ $: "open", recovered: true });
  for (const id of [8, 9, 10]) socket.receive(item(id, "room:1"));
  assert.deepEqual(events, ["error", "close 1006", "open recovered", "item room:1 8", "item room:1 9", "item room:1 10"]);
  assert.equal(client.positions.get("room:1"), 10);
});

test("a server that knows nothing of what was missed leaves it to the page, and any id may follow", async () => {
  const [, events] = await open();
  sockets[0].receive(item(7));
  events.length = 0;
  const socket = await lose();
  socket.accept(ROOMS);
  socket.receive({ $: "open" });
  // The server's store was emptied.
  socket.receive(item(1));
  socket.receive(item(2));
  assert.deepEqual(events.slice(2), ["open", "refetch", "item a 1", "item a 2"]);
  assert.deepEqual(socket.sent, []);
});

test("a channel that cannot be resumed is fetched, and others go on", async () => {
  const [, events] = await open();
  sockets[0].receive(item(7));
  sockets[0].receive(item(3, "b"));
  events.length = 0;
  const socket = await lose();
  socket.accept(ROOMS);
  socket.receive({ $: "open", recovered: false });
  socket.receive({ $: "reset", channel: "a" });
  for (const id of [40, 41]) socket.receive(item(id));
  for (const id of [3, 4]) socket.receive(item(id, "b"));
  assert.deepEqual(events.slice(2), ["open", "refetch a", "item a 40", "item a 41", "item b 4"]);
  assert.deepEqual(socket.sent, []);
});

test("the latest count of a channel is emitted", async () => {
  const [client] = await open();
  const counts = [];
  client.oncount = ({ channel, count }) => counts.push([channel, count]);
  const send = (socket, channel, count, version) => socket.receive({ $: "count", channel, count, version });
  send(sockets[0], "a", 3, 17);
  send(sockets[0], "b", 1, 2);
  send(sockets[0], "a", 9, 16);
  send(sockets[0], "a", 9, 17);
  send(sockets[0], "a", 2, 18);
  assert.deepEqual(counts, [["a", 3], ["b", 1], ["a", 2]]);
  const socket = await lose();
  socket.accept(ROOMS);
  socket.receive({ $: "open", recovered: true });
  // The same, unless the server's store was emptied.
  send(socket, "a", 1, 1);
  assert.deepEqual(counts.at(-1), ["a", 1]);
});

test("the page can start with what it has", async () => {
  const [client, events] = await connect({ positions: [["a", 5]] });
  assert.deepEqual(resumed(sockets[0]), ["5,a"]);
  sockets[0].accept(ROOMS);
  sockets[0].receive({ $: "open", recovered: true });
  sockets[0].receive(item(5));
  sockets[0].receive(item(6));
  assert.deepEqual(events, ["open recovered", "item a 6"]);
  // The page has left the room.
  client.positions.delete("a");
  assert.deepEqual(resumed(await lose()), []);
});

test("too many positions are not sent, so nothing is recovered", async () => {
  await open();
  for (let room = 0; room < 100; room += 1) sockets[0].receive(item(1, `${room}`));
  const socket = await lose();
  assert.equal(resumed(socket).length, 100);
  socket.accept(ROOMS);
  socket.receive({ $: "open", recovered: true });
  socket.receive(item(1, "one more"));
  assert.deepEqual(resumed(await lose()), []);
});

test("a query of the URL is kept", async () => {
  await connectWith("/chat?token=a%20b", ROOMS, { positions: [["a", 5]] });
  assert.equal(sockets[0].url, "wss://app.example/chat?token=a%20b&resume=5,a");
});

test("the heartbeat finds a dead socket within ten seconds", async () => {
  const [, events] = await open();
  await pass(4_900);
  assert.deepEqual(sockets[0].sent, []);
  await pass(100);
  assert.deepEqual(sockets[0].sent, ['{"$":"ping"}']);
  sockets[0].receive({ $: "pong" });
  await pass(5_000);
  assert.equal(sockets[0].sent.length, 2);
  await pass(4_000);
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(events, ["error", "close 1006"]);
});

test("a server that accepts and never answers is left after the timeout", async () => {
  const [client, events] = await connect();
  sockets[0].accept(ROOMS);
  client.send("kept");
  await pass(6_000);
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(events, ["error", "close 1006"]);
  await pass(500);
  sockets[1].accept(ROOMS);
  sockets[1].receive({ $: "open" });
  assert.deepEqual(sockets[1].sent, ["kept"]);
});

test("wrong frames are ignored", async () => {
  const [client, events] = await open();
  for (const data of [
    '{"$":"item"',
    '{"$":}',
    '{"$":"other","channel":"a"}',
    '{"$":1}',
    '{"$":"item","channel":"a"}',
    '{"$":"item","channel":"a","id":"7","data":0}',
    '{"$":"item","channel":"a","id":1.5,"data":0}',
    '{"$":"item","channel":"a","id":1e300,"data":0}',
  ]) {
    sockets[0].receive(data);
  }
  assert.deepEqual(events, []);
  assert.equal(client.positions.size, 0);
});

test("wrong frames do not open a connection", async () => {
  const [, events] = await connect();
  sockets[0].accept(ROOMS);
  for (let seconds = 0; seconds < 6; seconds += 1) {
    sockets[0].receive('{"$":"open"');
    await pass(1_000);
  }
  assert.ok(sockets[0].isClosed);
  assert.deepEqual(events, ["error", "close 1006"]);
});

test("a first message that is not `open` opens without recovery", async () => {
  for (const [first, event] of [
    [item(8), "item a 8"],
    ["raw", "message raw"],
    ['{"$":"pong","recovered":true}', undefined],
  ]) {
    const [client, events] = await connect({ positions: [["a", 5]] });
    sockets.at(-1).accept(ROOMS);
    sockets.at(-1).receive(first);
    assert.deepEqual(events, ["open", "refetch", event].filter(Boolean));
    client.close();
  }
});

test("a close in a handler stops the items", async () => {
  const [client, events] = await open();
  for (const id of [1, 3, 4]) sockets[0].receive(item(id));
  client.onitem = ({ id }) => id === 2 && client.close();
  sockets[0].receive(item(2));
  sockets[0].end(1005);
  assert.deepEqual(events, ["item a 1", "item a 2", "item a 3", "item a 4", "close 1005"], "they have been received");
  const [reconnecting, others] = await connect();
  sockets[1].accept(ROOMS);
  sockets[1].receive({ $: "open" });
  for (const id of [1, 3, 4]) sockets[1].receive(item(id));
  reconnecting.onitem = ({ id }) => id === 2 && reconnecting.reconnect();
  sockets[1].receive(item(2));
  await settled();
  assert.deepEqual(others.slice(2), ["item a 1", "close 1000", "item a 2"]);
  assert.deepEqual(resumed(sockets[2]), ["2,a"], "the next connection delivers the others");
});

test("a server that does not select the subprotocol gets raw messages", async () => {
  const [client, events] = await connect();
  sockets[0].accept("");
  assert.equal(client.readyState, ReconnectingSocket.OPEN);
  sockets[0].receive(item(1));
  await pass(60_000);
  assert.deepEqual(sockets[0].sent, []);
  assert.deepEqual(events, ["open", "refetch", `message ${JSON.stringify(item(1))}`]);
});

test("the page that is back sends a ping at once", async () => {
  await open();
  window.dispatchEvent(new Event("online"));
  assert.deepEqual(sockets[0].sent, ['{"$":"ping"}']);
});
