// Builds the chat in docs/first-component.md and the component in docs/grip.md, as they stand there,
// and chats with them.

import assert from "node:assert/strict";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { testChat, waitForRequest } from "./chat.mjs";
import { Socket } from "./client.mjs";
import { startHost } from "./host.mjs";
import { Project } from "./project.mjs";

testChat("the chat in Rust", createChat, /request failed: /);

async function createChat() {
  const project = await Project.fromPage("The project");
  await project.prepareCargo();
  return project;
}

describe("the component in docs/grip.md", () => {
  let project;

  before(async () => {
    const page = await Project.fromPage("The project");
    project = await Project.fromGuide(await page.read("Cargo.toml"));
    await page.remove();
    await project.prepareCargo();
    await project.run("cargo", "build", "--target", "wasm32-wasip2", "--release");
    const wasm = join(project.folder, "target/wasm32-wasip2/release/chat.wasm");
    await copyFile(wasm, join(project.folder, "chat.wasm"));
  });

  after(() => project?.remove());

  test("a message reaches all clients", async () => {
    const host = await startHost({ from: project.folder });
    const [one, other] = await Promise.all([1, 2].map(() => Socket.open(`${host.url}/chat`)));
    one.send("hello");
    for (const socket of [one, other]) assert.equal(await socket.next(), "hello");
    for (const socket of [one, other]) assert.equal(await socket.close(1000), 1000);
    await host.stop();
  });

  test("internal errors get a 500 and a line in the log", async () => {
    const options = ["--variable", "grip_url=http://127.0.0.1:9"];
    const host = await startHost({ from: project.folder, options });
    const socket = await Socket.open(`${host.url}/chat`);
    socket.send("hello");
    assert.equal(await socket.closed(), 1011);
    await waitForRequest(host, 500);
    await host.stop();
    assert.match(host.log(), /request failed: /);
  });

  test("a missing address to publish to is an internal error", async () => {
    const host = await startHost({ from: project.folder, options: ["--variable", "grip_url="] });
    const socket = await Socket.open(`${host.url}/chat`);
    socket.send("hello");
    assert.equal(await socket.closed(), 1011);
    await waitForRequest(host, 500);
    await host.stop();
    assert.match(host.log(), /request failed: /);
  });

  test("events that exceed the limit are the client's fault", async () => {
    const limit = '\n[application.tool.socket-host.websocket]\nmax-message-size = "2MiB"\n';
    await project.write("spin.toml", (await project.read("spin.toml")) + limit);
    const host = await startHost({ from: project.folder });
    const socket = await Socket.open(`${host.url}/chat`);
    socket.send("x".repeat(1 << 20));
    assert.equal(await socket.closed(), 1011);
    await waitForRequest(host, 400);
    await host.stop();
    assert.doesNotMatch(host.log(), /request failed: /);
  });
});
