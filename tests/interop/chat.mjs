// The tests of the chats in docs/first-component.md.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Socket } from "./client.mjs";
import { startHost } from "./host.mjs";

/** The number of messages that the chats keep. */
const CAPACITY = 100;

/** A page's connection to the chat. It asks for the history once it is open, and merges by id. */
class Page {
  #socket;
  /** The messages by id, each with the most likes seen. */
  messages = new Map();

  static async join(host) {
    const page = new Page();
    page.#socket = await Socket.open(`${host.url}/chat`);
    page.send({ type: "history" });
    return page;
  }

  send(command) {
    this.#socket.send(typeof command === "string" ? command : JSON.stringify(command));
  }

  say(text) {
    this.send({ type: "say", text });
  }

  /** Reads until the condition holds. */
  async until(condition) {
    while (!condition(this.messages)) {
      const message = JSON.parse(await this.#socket.next());
      const known = this.messages.get(message.id);
      if (!known || known.likes < message.likes) this.messages.set(message.id, message);
    }
  }

  async leave() {
    assert.equal(await this.#socket.close(1000), 1000);
  }
}

const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const ids = (page) => [...page.messages.keys()].sort((a, b) => a - b);

/**
 * Defines the tests of a chat. `create` returns its project. When the component fails, it prints a
 * line that matches `failure`.
 */
export function testChat(name, create, failure) {
  describe(name, () => {
    let project, host;

    before(async () => {
      project = await create();
      await project.build();
      host = await startHost({ from: project.folder });
    });

    after(async () => {
      try {
        await host?.stop();
      } finally {
        await project?.remove();
      }
    });

    test("it serves the page, and nothing else", async () => {
      const page = await fetch(`${host.url}/`);
      assert.equal(page.status, 200);
      assert.equal(page.headers.get("content-type"), "text/html; charset=utf-8");
      assert.equal(await page.text(), await project.read("index.html"));
      for (const [path, status] of [["/other", 404], ["/index.html", 404], ["/chat", 426]]) {
        assert.equal((await fetch(`${host.url}${path}`)).status, status, path);
      }
    });

    test("nobody misses a message who joins while others write", async () => {
      const [writers, joiners, each] = [4, 60, 20];
      const last = writers * each;
      const written = range(1, writers).map(async (writer) => {
        const page = await Page.join(host);
        for (const number of range(1, each)) {
          page.say(`${number} of ${writer}`);
          const texts = () => [...page.messages.values()].map(({ text }) => text);
          await page.until(() => texts().includes(`${number} of ${writer}`));
        }
        return page;
      });
      const joined = range(1, joiners).map(async (number) => {
        await new Promise((resolve) => setTimeout(resolve, number * 10));
        return Page.join(host);
      });
      const pages = await Promise.all([...written, ...joined]);
      await Promise.all(pages.map((page) => page.until((messages) => messages.size === last)));
      for (const page of pages) assert.deepEqual(ids(page), range(1, last));
      await Promise.all(pages.map((page) => page.leave()));
    });

    test("no like is lost when many like a message at once", async () => {
      const pages = await Promise.all(range(1, 20).map(() => Page.join(host)));
      for (const page of pages) page.send({ type: "like", id: 7 });
      await Promise.all(pages.map((page) => page.until((all) => all.get(7)?.likes === pages.length)));
      await Promise.all(pages.map((page) => page.leave()));
    });

    test("the newest messages are kept, with their likes", async () => {
      const writer = await Page.join(host);
      const count = 2 * CAPACITY - 30;
      for (const number of range(81, count)) writer.say(`message ${number}`);
      await writer.until((messages) => messages.has(count));
      writer.send({ type: "like", id: count });
      // These are ignored: the messages are gone, too long, or no commands.
      for (const id of [7, count + 1, 0, -1]) writer.send({ type: "like", id });
      writer.say("x".repeat(1001));
      for (const text of ["", "{", "1", '{"type":"say"}', '{"type":"none"}']) writer.send(text);
      await writer.until((messages) => messages.get(count)?.likes === 1);

      const joiner = await Page.join(host);
      await joiner.until((messages) => messages.size === CAPACITY);
      writer.say("the end");
      for (const page of [writer, joiner]) await page.until((messages) => messages.has(count + 1));
      assert.deepEqual(ids(joiner), range(count - CAPACITY + 1, count + 1));
      assert.deepEqual(joiner.messages.get(count), { id: count, text: `message ${count}`, likes: 1 });
      await Promise.all([writer, joiner].map((page) => page.leave()));
    });

    test("the history survives a restart", async () => {
      await host.stop();
      host = await startHost({ from: project.folder });
      const page = await Page.join(host);
      await page.until((messages) => messages.size === CAPACITY);
      assert.equal(Math.max(...ids(page)), 2 * CAPACITY - 29);
      await page.leave();
    });

    test("a fault of the component gets a 500 and a line in its log", async () => {
      const broken = await startHost({
        from: project.folder,
        options: ["--variable", "grip_url=http://127.0.0.1:9"],
      });
      const page = await Socket.open(`${broken.url}/chat`);
      page.send('{"type":"say","text":"hello"}');
      assert.equal(await page.closed(), 1011);
      await waitForRequest(broken, 500);
      assert.match(broken.log(), failure);
      await broken.stop();
    });
  });
}

/** Waits until a component has responded with `status`. */
export async function waitForRequest(host, status) {
  const counter = new RegExp(`^socket_host_backend_requests_total\\{.*status="${status}".*\\} [1-9]`, "m");
  for (;;) {
    const metrics = await (await fetch(`${host.control}/metrics`)).text();
    if (counter.test(metrics)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
