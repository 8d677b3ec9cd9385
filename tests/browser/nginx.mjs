// Runs nginx in front of several hosts.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { freePort, run } from "./backend.mjs";
import { eventually } from "./page.mjs";

/** Debian's nginx, which is in the PATH of root only. */
const PROGRAM = "/usr/sbin/nginx";
const FIXTURES = fileURLToPath(new URL("../fixtures/nginx", import.meta.url));

/** Starts nginx, with its files in `folder`. Returns its URL, and a function that ends it. */
export async function startNginx(folder, hosts) {
  const address = `127.0.0.1:${await freePort()}`;
  const servers = hosts.map((host) => `server ${host.address} max_fails=0;`);
  const main = await readFile(join(FIXTURES, "nginx.conf"), "utf8");
  const balancer = await readFile(join(FIXTURES, "balancer.conf"), "utf8");
  const path = join(folder, "nginx.conf");
  await writeFile(path, main.replaceAll("FOLDER", folder));
  await writeFile(
    join(folder, "servers.conf"),
    balancer.replace("ADDRESS", address).replace("SERVERS", servers.join("\n    ")),
  );
  const server = run(PROGRAM, ["-c", path, "-e", join(folder, "error.log")]);
  const url = `http://${address}`;
  await eventually(() => fetch(url));
  return { url, end: server.end };
}
