// Runs the built host in front of a backend of the test, on free ports.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("../../target/release/socket-host", import.meta.url));

/** How long, in ms, the host may take to listen, or to drain. */
const PATIENCE = 30_000;

/**
 * Starts the host in front of `upstream` and waits until it serves. Gives its public and its
 * control address, and `stop`, which fails unless the host drains.
 */
export async function startHost({ upstream, key }) {
  await access(PROGRAM).catch(() => {
    throw new Error(`${PROGRAM} is missing: cargo build --release makes it`);
  });
  // Without a manifest there.
  const folder = await mkdtemp(join(tmpdir(), "interop-"));
  const host = spawn(
    PROGRAM,
    [
      "up",
      ...["--upstream", upstream],
      ...["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"],
      ...(key ? ["--grip-key", key] : []),
    ],
    { cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  );
  const ended = once(host, "exit");
  // Also when the tests are cut short, no host stays behind.
  process.once("exit", () => host.kill("SIGKILL"));
  let log = "";
  host.stderr.setEncoding("utf8").on("data", (text) => (log += text));

  const serving = new Promise((resolve) => {
    let url, control;
    createInterface({ input: host.stdout }).on("line", (line) => {
      url ??= /^Serving (http:\/\/\S+)/.exec(line)?.[1];
      control ??= /^Control: (http:\/\/\S+)/.exec(line)?.[1];
      if (url && control) resolve({ url, control });
    });
  });
  const failed = ended.then(([code, signal]) => {
    throw new Error(`the host ended with ${signal ?? code} before it served:\n${log}`);
  });
  const { url, control } = await within("serve", Promise.race([serving, failed]));
  failed.catch(() => {});

  return {
    url,
    control,
    async stop() {
      host.kill("SIGTERM");
      const end = await within("drain", ended);
      await rm(folder, { recursive: true });
      assert.deepEqual(end, [0, null], `exit code and signal; the host said:\n${log}`);
    },
  };

  async function within(what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
      const error = () => new Error(`the host did not ${what} within ${PATIENCE} ms:\n${log}`);
      timer = setTimeout(() => {
        host.kill("SIGKILL");
        reject(error());
      }, PATIENCE);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
