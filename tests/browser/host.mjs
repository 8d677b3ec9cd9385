// Runs the built host on free ports.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { embedded, prepare, release } from "./backend.mjs";
import { Service } from "./service.mjs";
import { isTls, testCertificate } from "./tls.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAM = `${ROOT}target/release/socket-host`;

/** The GRIP key of the hosts and their components. */
export const KEY = "of the tests";

/** Includes compiling the components. */
const START_TIMEOUT_MS = 60_000;
const DRAIN_TIMEOUT_MS = 20_000;

export class Host extends Service {
  /** Its output so far. */
  log = "";

  #process;
  #exit;
  #endBackend;

  /**
   * Starts the host and waits until it serves. `stateDir` holds its orders. Each of
   * `timers` makes an order at once and then `every` interval. `listen` is a free port
   * by default. `options` are additional arguments. `from` replaces the manifest, and its
   * components always run in the host. `tls` is whether the public port uses TLS.
   */
  static async start({ stateDir, every = "2s..6s", timers = 1, listen = "127.0.0.1:0", from, options = [], tls = isTls }) {
    await access(PROGRAM).catch(() => {
      throw new Error(`${PROGRAM} is missing: run cargo build --release`);
    });
    const host = new Host();
    const own = from ?? (await manifest(stateDir, every, timers));
    const { args, end } = from
      ? embedded(stateDir, KEY, options)
      : await prepare({ manifest: own, stateDir, key: KEY, options });
    host.#endBackend = end;
    await host.#start(["up", "--from", own, "--listen", listen, ...(tls ? await tlsOptions() : []), ...args]);
    return host;
  }

  async #start(args) {
    this.#process = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#exit = once(this.#process, "exit");
    // No host outlives the tests, even if they are interrupted.
    const end = () => this.#process.kill("SIGKILL");
    process.once("exit", end);
    this.#exit.then(() => process.off("exit", end));
    const { stdout, stderr } = this.#process;
    stderr.setEncoding("utf8").on("data", (text) => (this.log += text));

    const serving = new Promise((resolve) => {
      createInterface({ input: stdout }).on("line", (line) => {
        this.log += `${line}\n`;
        this.url ??= /^Serving (https?:\/\/\S+)/.exec(line)?.[1];
        this.control ??= /^Control: (http:\/\/\S+)/.exec(line)?.[1];
        if (this.control) resolve();
      });
    });
    try {
      await within(START_TIMEOUT_MS, "serve", Promise.race([serving, this.#failure()]));
    } catch (error) {
      await this.kill();
      throw new Error(`${error.message}; its log:\n${this.log}`);
    }
  }

  async #failure() {
    const [code, signal] = await this.#exit;
    throw new Error(`the host exited with ${signal ?? code} before it served`);
  }

  /** The address to listen on, for a host that replaces this one. */
  get address() {
    return new URL(this.url).host;
  }

  /** Kills the host, without draining. */
  async kill() {
    this.#process.kill("SIGKILL");
    await this.#exit;
    await this.#endBackend();
  }

  /** Drains the host, as a service manager does, and waits for its exit. */
  async stop() {
    this.#process.kill("SIGTERM");
    let exit;
    try {
      exit = await within(DRAIN_TIMEOUT_MS, "drain", this.#exit);
    } catch (error) {
      await this.kill();
      throw new Error(`${error.message}; its log:\n${this.log}`);
    }
    await this.#endBackend();
    assert.deepEqual(exit, [0, null], `exit code and signal; host log:\n${this.log}`);
  }
}

/** Creates a folder for a host's orders. */
export function newState() {
  return mkdtemp(join(tmpdir(), "socket-burger-"));
}

export async function removeState(stateDir) {
  await release(stateDir);
  await rm(stateDir, { recursive: true, force: true });
}

/** Runs another host that makes at least `count` orders in `stateDir`. */
export async function makeOrders(stateDir, count) {
  const host = await Host.start({ stateDir, every: "10ms", timers: Math.min(count, 16) });
  try {
    // Does not count the orders made before this request.
    const last = (await host.newest()) + count;
    while ((await host.newest()) < last);
  } finally {
    await host.stop();
  }
}

/**
 * Starts another host with `count` orders, or with at least as many from 50 on. Returns
 * it and its state folder, and registers its clean-up with `defer`.
 */
export async function otherHost(count, defer) {
  const stateDir = await newState();
  defer(() => removeState(stateDir));
  const isFew = count < 50;
  if (!isFew) await makeOrders(stateDir, count);
  const host = await Host.start({ stateDir, every: "1h", timers: isFew ? count : 1 });
  defer(() => host.stop());
  while ((await host.newest()) < 99 + count);
  return [host, stateDir];
}

/** Runs another host that makes `count` orders in the store of `host`, and publishes them to its clients. */
export async function deliverOrders(host, stateDir, count) {
  const before = await host.newest();
  const options = ["--variable", `grip_url=${host.control}`];
  const other = await Host.start({ stateDir, every: "1h", timers: count, options });
  try {
    while ((await host.newest()) < before + count);
  } finally {
    await other.stop();
  }
}

/** Publishes orders to the clients of `host` as the service does, in a single request. */
export async function publishOrders(host, orders) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = `${part({ typ: "JWT", alg: "HS256" })}.${part({ iss: "tests", exp: Math.floor(Date.now() / 1000) + 60 })}`;
  const token = `${claims}.${createHmac("sha256", KEY).update(claims).digest("base64url")}`;
  const items = orders.map((order) => {
    const content = JSON.stringify({ event: "order-received", detail: { order } });
    return { channel: "orders", formats: { "ws-message": { content } } };
  });
  const response = await fetch(`${host.control}/publish/`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}` },
    body: JSON.stringify({ items }),
  });
  assert.equal(response.status, 200, await response.text());
}

/** Returns the options with which a host uses the certificate of the tests. */
async function tlsOptions() {
  const { certPath, keyPath } = await testCertificate();
  return ["--tls-cert", certPath, "--tls-key", keyPath];
}

/** Writes the application's manifest with other timers to `folder`, and returns its path. */
export async function manifest(folder, every, timers) {
  const text = await readFile(`${ROOT}spin.toml`, "utf8");
  const timer = /\[\[application\.tool\.socket-host\.timer\]\]\nrequest = .*\nevery = ".*"\n/;
  assert.match(text, timer, "spin.toml has changed");
  const changed = text
    .replace(timer, (it) => it.replace(/every = .*/, `every = "${every}"`).repeat(timers))
    .replaceAll('"target/', `"${ROOT}target/`)
    .replace('source = "static"', `source = "${ROOT}static"`)
    .replace('source = "client/src"', `source = "${ROOT}client/src"`);
  for (const folder of ["static", "client/src"]) {
    assert.ok(changed.includes(`"${ROOT}${folder}"`), "spin.toml has changed");
  }
  const path = join(folder, `spin-${every}-${timers}.toml`);
  await writeFile(path, changed);
  return path;
}

async function within(ms, what, promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the host did not ${what} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
