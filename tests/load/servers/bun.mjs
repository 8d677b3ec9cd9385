// A server in Bun, to compare socket-host with. It has the interface of ws.mjs. A publish goes to a topic,
// to which Bun subscribes the sockets natively.

import { parseArgs } from "node:util";

const CHANNEL = "orders";
const PONG = '{"event":"pong"}';

const { values } = parseArgs({
  options: {
    listen: { type: "string", default: "127.0.0.1:3000" },
    control: { type: "string", default: "127.0.0.1:5561" },
  },
});

const notFound = () => new Response("not found\n", { status: 404 });
const ok = () => new Response("OK\n");

function listen(address, options) {
  const colon = address.lastIndexOf(":");
  const [hostname, port] = [address.slice(0, colon), Number(address.slice(colon + 1))];
  // Without timeouts, as ws.mjs.
  return Bun.serve({ hostname, port, idleTimeout: 0, ...options });
}

const app = listen(values.listen, {
  fetch(request, server) {
    const { pathname } = new URL(request.url);
    if (pathname === "/healthz") return ok();
    if (pathname !== "/api/ws") return notFound();
    if (!server.upgrade(request)) return new Response("expected a WebSocket\n", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    perMessageDeflate: false,
    open(socket) {
      socket.subscribe(CHANNEL);
    },
    message(socket, data) {
      let message;
      try {
        message = JSON.parse(data);
      } catch {
        return;
      }
      if (message?.event === "ping") socket.sendText(PONG);
    },
  },
});

function publish({ items }) {
  for (const item of items) {
    if (item.channel !== CHANNEL) continue;
    const { content } = (item.formats ?? item)["ws-message"];
    app.publish(CHANNEL, content);
  }
}

const control = listen(values.control, {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/healthz") return ok();
    if (request.method !== "POST" || pathname !== "/publish/") return notFound();
    try {
      publish(await request.json());
    } catch (error) {
      return new Response(`${error.message}\n`, { status: 400 });
    }
    return new Response("Published\n");
  },
});

function stop() {
  app.stop(true);
  control.stop(true);
  process.exit(0);
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
