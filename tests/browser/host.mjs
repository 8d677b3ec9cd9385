// Runs the built host on free ports, for as long as a test needs it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAM = `${ROOT}target/release/socket-host`;

/** How long, in ms, the host may take to compile the components and listen. */
const STARTING = 60_000;
/** How long, in ms, it may take to drain. */
const STOPPING = 20_000;

export class Host {
  /** Where it serves: `http://127.0.0.1:PORT`. */
  url;
  /** All it has said so far, for when a test fails. */
  log = "";

  #process;
  #exit;

  /**
   * Starts the host and waits until it serves. `stateDir` holds its orders;
   * `listen` is a free port unless an earlier host's address is to be taken over.
   */
  static async start({ stateDir, listen = "127.0.0.1:0", manifest = `${ROOT}spin.toml` }) {
    await access(PROGRAM).catch(() => {
      throw new Error(`${PROGRAM} is missing: cargo build --release makes it`);
    });
    const host = new Host();
    await host.#start([
      "up",
      ...["--from", manifest],
      ...["--listen", listen],
      ...["--control", "127.0.0.1:0"],
      ...["--state-dir", stateDir],
    ]);
    return host;
  }

  async #start(args) {
    this.#process = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#exit = once(this.#process, "exit");
    // Also when the tests are cut short, no host stays behind.
    process.once("exit", () => this.#process.kill("SIGKILL"));
    const { stdout, stderr } = this.#process;
    stderr.setEncoding("utf8").on("data", (text) => (this.log += text));

    const serving = new Promise((resolve) => {
      createInterface({ input: stdout }).on("line", (line) => {
        this.log += `${line}\n`;
        const url = /^Serving (http:\/\/\S+)/.exec(line)?.[1];
        if (url) resolve(url);
      });
    });
    try {
      this.url = await within(STARTING, "serve", Promise.race([serving, this.#failure()]));
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
