// Third-party GRIP libraries with the host: @fanoutio/serve-grip as its backend, @fanoutio/grip
// and Python's gripcontrol as publishers, with and without a key.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { access } from "node:fs/promises";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Publisher, WebSocketMessageFormat } from "@fanoutio/grip";
import { ROOM, startBackend } from "./backend.mjs";
import { Socket, Stream, within } from "./client.mjs";
import { startHost } from "./host.mjs";

/** `tests/run` creates it. */
const PYTHON = fileURLToPath(new URL("../../target/interop-venv/bin/python", import.meta.url));
const PUBLISH = fileURLToPath(new URL("publish.py", import.meta.url));

for (const key of [undefined, "a key of the tests, long enough for HS256"]) {
  describe(key ? "with a key" : "without a key", () => {
    let backend, host, grip;

    before(async () => {
      backend = await startBackend();
      host = await startHost({ upstream: backend.url, key });
      grip = {
        control_uri: `${host.control}/`,
        ...(key && { control_iss: "tests", key, verify_iss: undefined, verify_key: key }),
      };
      backend.configure(grip);
    });

    after(async () => {
      await host?.stop();
      await backend?.stop();
    });

    test("serve-grip replies, keeps state and closes a WebSocket", async () => {
      const socket = await Socket.open(`${host.url}/chat`);
      socket.send("/echo été");
      assert.equal(await socket.next(), "1 été");
      socket.send("/echo again");
      assert.equal(await socket.next(), "2 again");
      assert.equal(await socket.close(4321), 4321);
      assert.deepEqual(backend.recorded.closeCodes.splice(0), [4321]);

      const other = await Socket.open(`${host.url}/chat`);
      other.send("/quit");
      assert.equal(await other.closed(), 4000);
    });

    test("serve-grip verifies the host's signature", async () => {
      // Filters by URL: the last request of an earlier socket may arrive late.
      const url = "/chat?signed";
      const socket = await Socket.open(host.url + url);
      await socket.close(1000);
      const requests = backend.recorded.requests.filter((request) => request.url === url);
      assert.equal(requests.length, 2);
      assert.ok(requests.every(({ signed }) => signed === Boolean(key)));
      if (!key) return;
      // It rejects requests that do not come from the host.
      const { status } = await fetch(`${backend.url}/stream`);
      assert.ok(status >= 500, `status ${status}`);
    });

    test("serve-grip's chat reaches all sockets of the room", async () => {
      const sockets = await Promise.all(
        Array.from({ length: 3 }, () => Socket.open(`${host.url}/chat`)),
      );
      for (const text of ["hello", "été 🍔"]) {
        sockets[0].send(text);
        for (const socket of sockets) assert.equal(await socket.next(), text);
      }
      sockets[1].send("/leave");
      assert.equal(await sockets[1].next(), "left");
      sockets[0].send("for those who stayed");
      assert.equal(await sockets[2].next(), "for those who stayed");
      sockets[1].send("/echo nothing before this");
      assert.equal(await sockets[1].next(), "2 nothing before this");
      for (const socket of sockets) await socket.close(1000);
    });

    test("@fanoutio/grip publishes to sockets, streams and long polls", async () => {
      const publisher = new Publisher(grip);
      const socket = await Socket.open(`${host.url}/chat`);
      const stream = await Stream.open(`${host.url}/stream`);
      await stream.until(": open\n\n");

      await publisher.publishFormats(ROOM, new WebSocketMessageFormat("from node"));
      assert.equal(await socket.next(), "from node");
      const bytes = new Uint8Array([0, 1, 254, 255]);
      await publisher.publishFormats(ROOM, new WebSocketMessageFormat(bytes));
      assert.deepEqual(new Uint8Array(await socket.next()), bytes);

      await publisher.publishHttpStream(ROOM, "data: from node\n\n");
      await stream.until("data: from node\n\n");
      await stream.until(": alive\n\n");

      const publish = () => publisher.publishHttpResponse(ROOM, "news\n");
      assert.equal(await poll(`${host.url}/poll`, publish), "news\n");
      stream.close();
      await socket.close(1000);
    });

    test("a long poll ends with the backend's response", async () => {
      const response = await fetch(`${host.url}/poll`);
      assert.equal(response.status, 200);
      assert.equal(await response.text(), "nothing new\n");
    });

    test("gripcontrol publishes to sockets, streams and long polls", async () => {
      const python = await Python.start(host.control, key);
      const socket = await Socket.open(`${host.url}/chat`);
      const stream = await Stream.open(`${host.url}/stream`);
      await stream.until(": open\n\n");

      assert.equal(await python.publish({ channel: ROOM, ws: "from Python, été" }), "ok");
      assert.equal(await socket.next(), "from Python, été");
      assert.equal(await python.publish({ channel: ROOM, stream: "data: snake\n\n" }), "ok");
      await stream.until("data: snake\n\n");
      const publish = () => python.publish({ channel: ROOM, response: "news\n" });
      assert.equal(await poll(`${host.url}/poll`, publish), "news\n");

      stream.close();
      await socket.close(1000);
      await python.stop();
    });

    if (!key) return;

    test("publishing without the right key fails", async () => {
      const socket = await Socket.open(`${host.url}/chat`);
      const control_uri = grip.control_uri;
      for (const bad of [
        { control_uri },
        { control_uri, control_iss: "tests", key: "another key, as long as HS256 wants it" },
      ]) {
        const publisher = new Publisher(bad);
        const message = new WebSocketMessageFormat("not to be seen");
        await assert.rejects(publisher.publishFormats(ROOM, message));
        const python = await Python.start(host.control, bad.key);
        assert.match(await python.publish({ channel: ROOM, ws: "not to be seen" }), /^error: /);
        await python.stop();
      }
      socket.send("/echo nothing before this");
      assert.equal(await socket.next(), "1 nothing before this");
      await socket.close(1000);
    });
  });
}

/** Polls `url` once, and publishes until it responds: a client cannot tell when the poll is held. */
async function poll(url, publish) {
  let hasResponded = false;
  const response = fetch(url)
    .then((response) => response.text())
    .finally(() => (hasResponded = true));
  while (!hasResponded) {
    await publish();
    await Promise.race([response, new Promise((resolve) => setTimeout(resolve, 50))]);
  }
  return within("the poll's response", response);
}

/** A process of publish.py. */
class Python {
  #process;
  #replies;

  static async start(control, key) {
    await access(PYTHON).catch(() => {
      throw new Error(`${PYTHON} is missing: run tests/run`);
    });
    const python = new Python();
    python.#process = spawn(PYTHON, [PUBLISH, control, ...(key ? [key] : [])], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    process.once("exit", () => python.#process.kill("SIGKILL"));
    const lines = createInterface({ input: python.#process.stdout });
    python.#replies = lines[Symbol.asyncIterator]();
    return python;
  }

  async publish(item) {
    this.#process.stdin.write(`${JSON.stringify(item)}\n`);
    const { value, done } = await within("Python's reply", this.#replies.next());
    assert.ok(!done, "Python exited");
    return value;
  }

  async stop() {
    const exited = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.stdin.end();
    assert.equal(await within("Python to exit", exited), 0);
  }
}
