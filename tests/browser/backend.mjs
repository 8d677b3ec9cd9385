// Where the components of a host run, and where their orders are. The environment variable BACKEND selects it:
//   embedded   in the host, with a file; this is the default
//   redis      in the host, with a Redis server
//   upstream   in a server behind the host, with a file

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const BACKEND = process.env.BACKEND ?? "embedded";
assert.ok(["embedded", "redis", "upstream"].includes(BACKEND), `BACKEND is ${BACKEND}`);

const STAND_IN = fileURLToPath(new URL("../../target/release/spin-stand-in", import.meta.url));
const START_TIMEOUT_MS = 60_000;

/** The Redis servers, by the folder of the orders. */
const redisServers = new Map();

/**
 * Prepares the components of a manifest for a host with this GRIP key. `options` are those of the server that runs
 * them. Returns the arguments of the host, and a function that ends what was started.
 */
export async function prepare({ manifest, stateDir, key, options }) {
  if (BACKEND === "upstream") return upstream(manifest, stateDir, key, options);
  const config = BACKEND === "redis" ? ["--runtime-config-file", await redisConfig(stateDir)] : [];
  return embedded(stateDir, key, [...config, ...options]);
}

/** Returns the arguments of a host that runs the components itself. */
export function embedded(stateDir, key, options) {
  const args = ["--control", "127.0.0.1:0", "--grip-key", key, "--state-dir", stateDir, ...options];
  return { args, end: () => {} };
}

/** Ends the servers that hold the orders of a folder. */
export async function release(stateDir) {
  await (await redisServers.get(stateDir))?.end();
  redisServers.delete(stateDir);
}

async function upstream(manifest, stateDir, key, options) {
  const control = `127.0.0.1:${await freePort()}`;
  const { url, end } = await standIn(manifest, stateDir, control, key, options);
  return { args: ["--upstream", url, "--control", control, "--grip-key", key], end };
}

/** Starts a server that runs the components of a manifest, which publish to `control`. Returns its URL and its end. */
export async function standIn(manifest, stateDir, control, key, options = []) {
  const defaults = { grip_url: `http://${control}`, grip_key: key };
  const variables = Object.entries(defaults)
    .filter(([name]) => !options.some((option) => option.startsWith(`${name}=`)))
    .flatMap(([name, value]) => ["--variable", `${name}=${value}`]);
  const server = run(STAND_IN, [
    ...["trigger", "http", "--listen", "127.0.0.1:0"],
    ...["--from", manifest, "--state-dir", stateDir],
    ...variables,
    ...options,
  ]);
  const url = await server.started((line) => /^Serving (http:\/\/\S+)/.exec(line)?.[1]);
  return { url, end: server.end };
}

/** Writes the runtime configuration with the Redis server of a folder, and returns its path. */
async function redisConfig(stateDir) {
  if (!redisServers.has(stateDir)) redisServers.set(stateDir, startRedis(join(stateDir, "redis")));
  const { port } = await redisServers.get(stateDir);
  return writeRedisConfig(stateDir, port);
}

/** Writes a runtime configuration with a Redis server into a folder, and returns its path. */
export async function writeRedisConfig(folder, port) {
  const path = join(folder, "runtime-config.toml");
  await writeFile(path, `[key_value_store.default]\ntype = "redis"\nurl = "redis://127.0.0.1:${port}"\n`);
  return path;
}

/** Starts a Redis server with its data in a new folder. */
export async function startRedis(folder) {
  await mkdir(folder);
  const port = await freePort();
  const server = run("redis-server", ["--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", folder]);
  await server.started((line) => line.includes("Ready to accept connections"));
  return { port, end: server.end };
}

/** Runs a server, which does not outlive the tests. */
export function run(program, args, signal = "SIGKILL") {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exit = once(child, "exit");
  const kill = () => child.kill(signal);
  process.once("exit", kill);
  const end = async () => {
    process.off("exit", kill);
    kill();
    await exit;
  };
  const lines = createInterface({ input: child.stdout });
  /** Waits for a line of output from which `find` returns something. */
  const started = async (find) => {
    const found = new Promise((resolve) => lines.on("line", (line) => find(line) && resolve(find(line))));
    const failed = exit.then(() => assert.fail(`${program} exited`));
    const late = pause(START_TIMEOUT_MS, undefined, { ref: false }).then(() => assert.fail(`${program} did not start`));
    return Promise.race([found, failed, late]);
  };
  return { started, end };
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
