// Runs the example server from docs/grip.md behind the host.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Socket, Stream, within } from "./client.mjs";
import { startHost } from "./host.mjs";

const KEY = "a key of the tests, long enough for HS256";
const GUIDE = new URL("../../docs/grip.md", import.meta.url);
/** The server's npm packages are installed here. */
const FOLDER = fileURLToPath(new URL(".", import.meta.url));

let host, server, port;

before(async () => {
  port = await freePort();
  host = await startHost({ upstream: `http://127.0.0.1:${port}`, key: KEY });
  const [, program] = /```js\n(\/\/ server\.mjs:.*?)```/s.exec(await readFile(GUIDE, "utf8"));
  server = spawn(process.execPath, ["--input-type=module", "-"], {
    cwd: FOLDER,
    env: { ...process.env, GRIP_KEY: KEY },
    stdio: ["pipe", "inherit", "inherit"],
  });
  process.once("exit", () => server.kill("SIGKILL"));
  server.stdin.end(
    replace(replace(program, "http://127.0.0.1:5561", host.control), "3001", String(port)),
  );
  await within("the server to listen", waitForResponse(`http://127.0.0.1:${port}/`));
});

after(async () => {
  // The host first: it reports the end of each socket to the server.
  try {
    await host?.stop();
  } finally {
    server?.kill("SIGKILL");
  }
});

test("a message reaches all clients, also after one has disconnected", async () => {
  const stream = await Stream.open(`${host.url}/`, "text/plain");
  await stream.until("welcome\n");
  const [one, other, third] = await Promise.all([1, 2, 3].map(() => Socket.open(`${host.url}/`)));
  one.send("hello");
  for (const socket of [one, other, third]) assert.equal(await socket.next(), "hello");
  await stream.until("hello\n");

  third.terminate();
  await within("two sessions", waitForSessions(2));
  other.send("who is there?");
  for (const socket of [one, other]) assert.equal(await socket.next(), "who is there?");
  await stream.until("who is there?\n");
  for (const socket of [one, other]) assert.equal(await socket.close(1000), 1000);
  stream.close();
});

test("it responds with 501 without a GRIP proxy", async () => {
  const response = await fetch(`http://127.0.0.1:${port}/`);
  assert.equal(response.status, 501);
});

function replace(text, from, to) {
  assert.ok(text.includes(from), `the example does not contain ${from}`);
  return text.replaceAll(from, to);
}

/** Waits until the host has `count` sessions. */
async function waitForSessions(count) {
  for (;;) {
    const metrics = await (await fetch(`${host.control}/metrics`)).text();
    const states = [...metrics.matchAll(/^socket_host_sessions\{.*\} (\d+)$/gm)];
    assert.notEqual(states.length, 0, metrics);
    if (states.reduce((sum, [, number]) => sum + Number(number), 0) === count) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Requests `url` until the server responds. */
async function waitForResponse(url) {
  for (;;) {
    try {
      return await fetch(url);
    } catch {
      assert.equal(server.signalCode ?? server.exitCode, null, "the server exited");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
