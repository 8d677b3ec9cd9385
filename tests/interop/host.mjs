// Runs the built host on free ports: in front of a test's backend, or with a project's components.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const PROGRAM = fileURLToPath(new URL("../../target/release/socket-host", import.meta.url));

/** For the host to serve, which includes compiling components, or to drain. */
const TIMEOUT_MS = 60_000;

/**
 * Starts the host in front of `upstream`, or for the manifest in the folder `from`, and waits until
 * it serves. Returns its public and control addresses, `log`, which returns what it has written to
 * stderr, and `stop`, which fails unless the host drains.
 */
export async function startHost({ upstream, from, key, options = [] }) {
  await access(PROGRAM).catch(() => {
    throw new Error(`${PROGRAM} is missing: run cargo build --release`);
  });
  // A folder without a manifest.
  const folder = await mkdtemp(join(tmpdir(), "interop-"));
  const host = spawn(
    PROGRAM,
    [
      "up",
      ...(upstream ? ["--upstream", upstream] : []),
      ...(from ? ["--from", from] : []),
      ...["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"],
      ...(key ? ["--grip-key", key] : []),
      ...options,
    ],
    { cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  );
  // By then, all its output has been read.
  const exited = once(host, "close");
  // No host outlives the tests, even if they are interrupted.
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
  const failed = exited.then(([code, signal]) => {
    throw new Error(`the host exited with ${signal ?? code} before it served:\n${log}`);
  });
  const { url, control } = await within("serve", Promise.race([serving, failed]));
  failed.catch(() => {});

  return {
    url,
    control,
    log: () => log,
    async stop() {
      host.kill("SIGTERM");
      const exit = await within("drain", exited);
      await rm(folder, { recursive: true });
      assert.deepEqual(exit, [0, null], `exit code and signal; host log:\n${log}`);
    },
  };

  async function within(what, promise) {
    let timer;
    const timeout = new Promise((_, reject) => {
      const error = () => new Error(`the host did not ${what} within ${TIMEOUT_MS} ms:\n${log}`);
      timer = setTimeout(() => {
        host.kill("SIGKILL");
        reject(error());
      }, TIMEOUT_MS);
    });
    try {
      return await Promise.race([promise, timeout]);
    } finally {
      clearTimeout(timer);
    }
  }
}
