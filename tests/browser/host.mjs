// Runs the built host on free ports, for as long as a test needs it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAM = `${ROOT}target/release/socket-host`;

/** What the hosts and components of tests know each other by. */
const KEY = "of the tests";

/** How long, in ms, the host may take to compile the components and listen. */
const STARTING = 60_000;
/** How long, in ms, it may take to drain. */
const STOPPING = 20_000;

export class Host {
  /** Where it serves: `http://127.0.0.1:PORT`. */
  url;
  /** Where it takes what is to be published. */
  control;
  /** All it has said so far, for when a test fails. */
  log = "";

  #process;
  #exit;

  /**
   * Starts the host and waits until it serves. `stateDir` holds its orders, which
   * come `every`, the first at once, and so many at a time as there are `timers`;
   * `listen` is a free port unless an earlier host's address is to be taken over.
   * `from` is another manifest, `options` are more of the command line's.
   */
  static async start({ stateDir, every = "2s..6s", timers = 1, listen = "127.0.0.1:0", from, options = [] }) {
    await access(PROGRAM).catch(() => {
      throw new Error(`${PROGRAM} is missing: cargo build --release makes it`);
    });
    const host = new Host();
    await host.#start([
      "up",
      ...["--from", from ?? (await manifest(stateDir, every, timers))],
      ...["--listen", listen],
      ...["--control", "127.0.0.1:0"],
      ...["--grip-key", KEY],
      ...["--state-dir", stateDir],
      ...options,
    ]);
    return host;
  }

  async #start(args) {
    this.#process = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#exit = once(this.#process, "exit");
    // Also when the tests are cut short, no host stays behind.
    const end = () => this.#process.kill("SIGKILL");
    process.once("exit", end);
    this.#exit.then(() => process.off("exit", end));
    const { stdout, stderr } = this.#process;
    stderr.setEncoding("utf8").on("data", (text) => (this.log += text));

    const serving = new Promise((resolve) => {
      createInterface({ input: stdout }).on("line", (line) => {
        this.log += `${line}\n`;
        this.url ??= /^Serving (http:\/\/\S+)/.exec(line)?.[1];
        this.control ??= /^Control: (http:\/\/\S+)/.exec(line)?.[1];
        if (this.control) resolve();
      });
    });
    try {
      await within(STARTING, "serve", Promise.race([serving, this.#failure()]));
    } catch (error) {
      this.#process.kill("SIGKILL");
      throw new Error(`${error.message}; it said:\n${this.log}`);
    }
  }

  async #failure() {
    const [code, signal] = await this.#exit;
    throw new Error(`the host ended with ${signal ?? code} before it served`);
  }

  /** The address to listen on for a host that takes this one's place. */
  get address() {
    return new URL(this.url).host;
  }

  /** Ends the host as a power cut does. */
  async kill() {
    this.#process.kill("SIGKILL");
    await this.#exit;
  }

  /** The orders after an id, as the service tells them. */
  async orders(after = 0) {
    const response = await fetch(`${this.url}/api/orders?after=${after}`);
    assert.equal(response.status, 200);
    return (await response.json()).orders;
  }

  /** The id of the newest order; 99 before the first. */
  async newest() {
    const response = await fetch(`${this.url}/api/orders?limit=1`);
    assert.equal(response.status, 200);
    return (await response.json()).orders[0]?.id ?? 99;
  }

  /** Changes an order by way of the service, as another screen would. */
  async change(id, to) {
    const response = await fetch(`${this.url}/api/orders/${id}/status`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ status: to }),
    });
    assert.equal(response.status, 200, await response.text());
  }

  /** Asks the host to drain, as a service manager does, and waits until it has. */
  async stop() {
    this.#process.kill("SIGTERM");
    let ended;
    try {
      ended = await within(STOPPING, "drain", this.#exit);
    } catch (error) {
      this.#process.kill("SIGKILL");
      throw new Error(`${error.message}; it said:\n${this.log}`);
    }
    assert.deepEqual(ended, [0, null], `exit code and signal; the host said:\n${this.log}`);
  }
}

/** A folder for a host's orders. */
export function newState() {
  return mkdtemp(join(tmpdir(), "socket-burger-"));
}

export function removeState(stateDir) {
  return rm(stateDir, { recursive: true, force: true });
}

/** Has a host of its own make orders in `stateDir` until there are at least `count` more. */
export async function makeOrders(stateDir, count) {
  const host = await Host.start({ stateDir, every: "10ms", timers: Math.min(count, 16) });
  try {
    // Those that came before it could be asked are not counted.
    const last = (await host.newest()) + count;
    while ((await host.newest()) < last);
  } finally {
    await host.stop();
  }
}

/**
 * A host of its own that has `count` orders, or, of many, at least so many, and its state;
 * `later` takes what ends it.
 */
export async function otherHost(count, later) {
  const stateDir = await newState();
  later(() => removeState(stateDir));
  const isFew = count < 50;
  if (!isFew) await makeOrders(stateDir, count);
  const host = await Host.start({ stateDir, every: "1h", timers: isFew ? count : 1 });
  later(() => host.stop());
  while ((await host.newest()) < 99 + count);
  return [host, stateDir];
}

/** Has another host make `count` orders at once, in the store that `host` has, and tell its clients. */
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

/** Tells `host`'s clients of orders as the service does, of all in one go. */
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

/** Writes the application's manifest with other timers, in `folder`; returns its path. */
async function manifest(folder, every, timers) {
  const text = await readFile(`${ROOT}spin.toml`, "utf8");
  const timer = /\[\[application\.tool\.socket-host\.timer\]\]\nrequest = .*\nevery = ".*"\n/;
  assert.match(text, timer, "spin.toml has changed");
  const changed = text
    .replace(timer, (it) => it.replace(/every = .*/, `every = "${every}"`).repeat(timers))
    .replaceAll('"target/', `"${ROOT}target/`)
    .replace('source = "static"', `source = "${ROOT}static"`);
  assert.ok(changed.includes(`"${ROOT}static"`), "spin.toml has changed");
  const path = join(folder, `spin-${every}-${timers}.toml`);
  await writeFile(path, changed);
  return path;
}

async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the host did not ${what} within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
