// Sending: what is buffered, in which order it is sent, and what happens when the buffer is full.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, pass, settled, sockets } from "./support.mjs";

const QUOTA = { name: "QuotaExceededError" };

test("messages wait for the connection, and are sent before `open` in their order", async () => {
  const [client] = await connect();
  const bytes = new Uint8Array([1, 2, 3]);
  client.send("ä");
  client.send(bytes.buffer);
  client.send(new Blob(["blob"]));
  bytes[0] = 9;
  assert.equal(client.bufferedAmount, 2 + 3 + 4);
  client.onopen = () => client.send("last");
  sockets[0].accept();
  assert.equal(client.bufferedAmount, 0);
  const [text, buffer, blob, last] = sockets[0].sent;
  assert.deepEqual([text, last], ["ä", "last"]);
  assert.deepEqual(new Uint8Array(await buffer.arrayBuffer()), new Uint8Array([1, 2, 3]), "the bytes at the time of send()");
  assert.equal(await blob.text(), "blob");
});

test("messages of a pause are sent on the next connection", async () => {
  const [client] = await connect();
  sockets[0].accept();
  sockets[0].end();
  client.send("a");
  await pass(500);
  sockets[1].end();
  client.send("b");
  await pass(1_000);
  sockets[2].accept();
  assert.deepEqual([sockets[1].sent, sockets[2].sent], [[], ["a", "b"]]);
});

test("an open connection gets the message as it is", async () => {
  const [client] = await connect();
  sockets[0].accept();
  const bytes = new Uint8Array(2);
  client.send(bytes);
  assert.equal(sockets[0].sent[0], bytes);
});

test("a message that does not fit is refused, and the others are kept", async () => {
  const [client] = await connect("/chat", [], { maxBufferedBytes: 10 });
  client.send("123456");
  assert.throws(() => client.send("äää"), { ...QUOTA, message: "the send buffer is full" });
  client.send("1234");
  assert.throws(() => client.send("1"), QUOTA);
  assert.equal(client.bufferedAmount, 10);
  sockets[0].accept();
  client.send("a message that is longer than the buffer");
  assert.deepEqual(sockets[0].sent.slice(0, 2), ["123456", "1234"]);
});

test("the number of messages is bounded, too", async () => {
  const [client] = await connect();
  for (let count = 0; count < 1_000; count += 1) client.send("");
  assert.throws(() => client.send(""), QUOTA);
  sockets[0].accept();
  assert.equal(sockets[0].sent.length, 1_000);
  client.send("");
});

test("a connection that does not send is bounded as well", async () => {
  const [client] = await connect();
  sockets[0].accept();
  sockets[0].bufferedAmount = 1_048_576;
  assert.equal(client.bufferedAmount, 1_048_576);
  client.send("a");
  sockets[0].bufferedAmount += 1;
  assert.throws(() => client.send("b"), QUOTA);
  sockets[0].bufferedAmount = 0;
  client.send("c");
  assert.deepEqual(sockets[0].sent, ["a", "c"]);
});

test("what was not sent before the close is dropped", async () => {
  const [client] = await connect();
  client.send("a");
  client.close();
  assert.equal(client.bufferedAmount, 0);
  client.send("b");
  client.reconnect();
  await settled();
  sockets[1].accept();
  assert.deepEqual(sockets[1].sent, []);
});
