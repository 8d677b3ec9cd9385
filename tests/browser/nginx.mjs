// Runs nginx in front of several hosts.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { freePort, run } from "./backend.mjs";
import { eventually } from "./page.mjs";

/** Debian's nginx, which is in the PATH of root only. */
const PROGRAM = "/usr/sbin/nginx";
const TEMPLATE = fileURLToPath(new URL("../fixtures/nginx.conf", import.meta.url));

/** Starts nginx, with its files in `folder`. Returns its URL, and a function that ends it. */
export async function startNginx(folder, hosts) {
  const address = `127.0.0.1:${await freePort()}`;
  const servers = hosts.map((host) => `server ${host.address} max_fails=0;`);
  const template = await readFile(TEMPLATE, "utf8");
  const path = join(folder, "nginx.conf");
  await writeFile(
    path,
    template
      .replaceAll("FOLDER", folder)
      .replace("ADDRESS", address)
      .replace("SERVERS", servers.join("\n        ")),
  );
  const server = run(PROGRAM, ["-c", path, "-e", join(folder, "error.log")]);
  const url = `http://${address}`;
  await eventually(() => fetch(url));
  return { url, end: server.end };
}
