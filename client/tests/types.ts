// What the types accept and refuse. package.test.mjs compiles this file.

import { Backoff, ReconnectingSocket, type ReconnectingSocketOptions } from "socket-host-client";

const options: ReconnectingSocketOptions = {
  backoff: { initial: 100, max: 5_000, random: () => 0.5 },
  ping: "ping",
  shouldReconnect: ({ code, reason, wasClean }) => code !== 4001 && reason !== "" && !wasClean,
  stream: { url: async () => "/stream", events: ["a"], send: async (data) => (data === "ping" ? ["pong"] : undefined) },
  positions: new Map([["a", 1]]),
};

const socket = new ReconnectingSocket(async () => new URL("wss://chat.example/"), ["rooms.v1"], options);
new ReconnectingSocket("/chat");
new ReconnectingSocket(() => "/chat", "rooms.v1", { stream: false, positions: [["a", 1]] });

socket.send("text");
socket.send(new Uint8Array(1));
socket.send(new Blob());
socket.binaryType = "arraybuffer";
socket.onmessage = ({ data, origin }) => console.log(data, origin.length);
socket.onclose = ({ code, target }) => console.log(code.toFixed(), target);
socket.addEventListener("open", ({ recovered }) => console.log(recovered satisfies boolean));
socket.addEventListener("item", function ({ channel, id, data }) {
  this.positions.set(channel, id);
  console.log(data.text);
});
socket.addEventListener("count", ({ channel, count }) => console.log(channel.length, count.toFixed()));
socket.addEventListener("refetch", ({ channel }) => console.log(channel?.length), { once: true });
socket.addEventListener("error", ({ error }) => error instanceof Error && console.log(error.message));
const state: 0 | 1 | 2 | 3 = socket.readyState;
const retryAt: number | null = socket.retryAt;
const delay: number = new Backoff().next();
console.log(state === ReconnectingSocket.OPEN, state === socket.CLOSED, retryAt, delay, socket.transport === "stream");
socket.close(1000, "done");
socket.reconnect();

// @ts-expect-error: not a URL
new ReconnectingSocket(1);
// @ts-expect-error: not an option
new ReconnectingSocket("/chat", [], { heartbeat: 1 });
// @ts-expect-error: not data
socket.send({ text: "a" });
// @ts-expect-error: read-only
socket.readyState = 1;
// @ts-expect-error: read-only
socket.url = "/";
// @ts-expect-error: not in this event
socket.addEventListener("open", ({ code }) => code);
// @ts-expect-error: may be undefined
socket.onrefetch = ({ channel }) => channel.length;
// @ts-expect-error: private
socket.positions = new Map();
