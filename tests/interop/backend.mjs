// A chat as one writes it with @fanoutio/serve-grip: a WebSocket and a stream of the same room.

import { createServer } from "node:http";
import { once } from "node:events";
import { WebSocketMessageFormat } from "@fanoutio/grip";
import { ServeGrip } from "@fanoutio/serve-grip";

/** The channel that both are subscribed to. */
export const ROOM = "room";

/**
 * Starts the backend. GRIP is configured afterwards, with `configure`, because the host's
 * control address is known only when it runs, and it runs in front of this.
 */
export async function startBackend() {
  let serveGrip;
  // What the handler saw, for the tests to look at.
  const seen = { requests: [], closed: [] };
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
    seen.requests.push({ url: request.url, signed: request.grip.isSigned });
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
      wsContext.meta.visits = "0";
    }
    while (wsContext.canRecv()) {
      const message = wsContext.recv();
      if (message === null) {
        seen.closed.push(wsContext.closeCode);
        wsContext.close(wsContext.closeCode);
        break;
      }
      const visits = String(Number(wsContext.meta.visits) + 1);
      wsContext.meta.visits = visits;
      if (message.startsWith("/echo ")) {
        wsContext.send(`${visits} ${message.slice("/echo ".length)}`);
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
    seen,
    configure(grip) {
      serveGrip = new ServeGrip({ grip, isGripProxyRequired: true });
    },
    async stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
