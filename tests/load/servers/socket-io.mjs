// A Node server with Socket.IO and its adapter for Redis streams, to compare several hosts with. A publish
// request is an event for all sockets of all nodes.

import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

import { controlServer, listen, respond } from "./http.mjs";

const { values } = parseArgs({
  options: {
    listen: { type: "string" },
    control: { type: "string" },
    redis: { type: "string" },
  },
});

const redis = createClient({ url: values.redis });
await redis.connect();

const app = createServer((request, response) => respond(response, 200, "OK\n"));
const io = new Server(app, {
  adapter: createAdapter(redis),
  transports: ["websocket"],
  perMessageDeflate: false,
  // The load program answers no pings.
  pingInterval: 600_000,
});

const control = controlServer((body) => {
  for (const item of JSON.parse(body).items) {
    const { content } = (item.formats ?? item)["ws-message"];
    io.emit("message", JSON.parse(content));
  }
});

listen(app, values.listen);
listen(control, values.control);

function stop() {
  io.disconnectSockets(true);
  control.closeAllConnections();
  setTimeout(() => process.exit(0), 100);
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
