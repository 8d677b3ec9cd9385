// HTTP for the servers that socket-host is compared with: the control port, and addresses.

import { createServer } from "node:http";

const BODY_MAX = 1 << 20;

export function respond(response, status, text) {
  response.writeHead(status, { "Content-Type": "text/plain", "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

/** Creates the server of the control port, which passes the body of each publish request to `publish`. */
export function controlServer(publish) {
  return createServer((request, response) => {
    if (request.method !== "POST" || request.url !== "/publish/") {
      if (request.url === "/healthz") respond(response, 200, "OK\n");
      else respond(response, 404, "not found\n");
      return;
    }
    const chunks = [];
    let length = 0;
    request.on("data", (chunk) => {
      length += chunk.length;
      if (length <= BODY_MAX) chunks.push(chunk);
    });
    request.on("end", () => {
      if (length > BODY_MAX) return respond(response, 413, "body too long\n");
      try {
        publish(Buffer.concat(chunks).toString());
      } catch (error) {
        return respond(response, 400, `${error.message}\n`);
      }
      respond(response, 200, "Published\n");
    });
  });
}

export function listen(server, address) {
  const colon = address.lastIndexOf(":");
  server.keepAliveTimeout = 0;
  server.listen({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), backlog: 4096 });
}
