// A Node server with `ws`, to compare socket-host with. It has the interface of socket-host with
// Socket Burger's components, as far as the load program needs it. A publish is encoded once for
// all sockets.

import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";

import { controlServer, listen, respond } from "./http.mjs";

const CHANNEL = "orders";
const PONG = Buffer.from('{"event":"pong"}');

const { values } = parseArgs({
  options: {
    listen: { type: "string", default: "127.0.0.1:3000" },
    control: { type: "string", default: "127.0.0.1:5561" },
  },
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, clientTracking: true });

sockets.on("connection", (socket) => {
  socket.on("error", () => socket.terminate());
  socket.on("message", (data) => {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message?.event === "ping") socket.send(PONG, { binary: false });
  });
});

function publish(body) {
  for (const item of JSON.parse(body).items) {
    if (item.channel !== CHANNEL) continue;
    const { content } = (item.formats ?? item)["ws-message"];
    const bytes = Buffer.from(content);
    for (const socket of sockets.clients) socket.send(bytes, { binary: false });
  }
}

const app = createServer((request, response) => {
  if (request.url === "/healthz") respond(response, 200, "OK\n");
  else respond(response, 404, "not found\n");
});

app.on("upgrade", (request, stream, head) => {
  stream.on("error", () => stream.destroy());
  if (request.url !== "/api/ws") {
    stream.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return;
  }
  sockets.handleUpgrade(request, stream, head, (socket) => sockets.emit("connection", socket, request));
});

const control = controlServer(publish);

listen(app, values.listen);
listen(control, values.control);

function stop() {
  for (const server of [app, control]) {
    server.close();
    server.closeAllConnections();
  }
  for (const socket of sockets.clients) socket.close(1001);
  setTimeout(() => process.exit(0), 100).unref();
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
