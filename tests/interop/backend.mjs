// A chat server written with @fanoutio/serve-grip: a WebSocket, a stream and a long poll for one room.

import { createServer } from "node:http";
import { once } from "node:events";
import { WebSocketMessageFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";

/** The channel that all of them subscribe to. */
export const ROOM = "room";

/**
 * Starts the backend. The host starts after it, so `configure` sets the host's control
 * address afterwards.
 */
export async function startBackend() {
  let serveGrip;
  // For assertions.
  const recorded = { requests: [], closeCodes: [] };
  const server = createServer((request, response) => {
    handle(request, response).catch((error) => {
      response.statusCode = 500;
      response.end(String(error?.stack ?? error));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");

  async function handle(request, response) {
    if (!(await serveGrip.run(request, response))) return;
    recorded.requests.push({ url: request.url, signed: request.grip.isSigned });
    const { pathname } = new URL(request.url, "http://localhost");
    if (pathname === "/chat" && request.grip.wsContext) return chat(request, response);
    if (pathname === "/stream") return stream(response);
    if (pathname === "/poll") return poll(response);
    response.statusCode = 404;
    response.end("not found\n");
  }

  async function chat({ grip: { wsContext } }, response) {
    if (wsContext.isOpening()) {
      wsContext.accept();
      wsContext.subscribe(ROOM);
      wsContext.meta.count = "0";
    }
    while (wsContext.canRecv()) {
      const message = wsContext.recv();
      if (message === null) {
        recorded.closeCodes.push(wsContext.closeCode);
        wsContext.close(wsContext.closeCode);
        break;
      }
      const count = String(Number(wsContext.meta.count) + 1);
      wsContext.meta.count = count;
      if (message.startsWith("/echo ")) {
        wsContext.send(`${count} ${message.slice("/echo ".length)}`);
      } else if (message === "/leave") {
        wsContext.unsubscribe(ROOM);
        wsContext.send("left");
      } else if (message === "/quit") {
        wsContext.close(4000);
      } else {
        await serveGrip
          .getPublisher()
          .publishFormats(ROOM, new WebSocketMessageFormat(message));
      }
    }
    response.end();
  }

  function stream(response) {
    const instruct = response.grip.startInstruct();
    instruct.addChannel(ROOM);
    instruct.setHoldStream();
    instruct.setKeepAlive(": alive\n\n", 1);
    response.setHeader("content-type", "text/event-stream");
    response.end(": open\n\n");
  }

  function poll(response) {
    const instruct = response.grip.startInstruct();
    instruct.addChannel(ROOM);
    instruct.setHoldLongPoll(2);
    response.setHeader("content-type", "text/plain");
    response.end("nothing new\n");
  }

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    recorded,
    configure(grip) {
      serveGrip = new ServeGrip({ grip, isGripProxyRequired: true });
    },
    async stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
