// The package as it is published: its files, size and types.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const MAX_GZIP_BYTES = 3_000;
const timeout = 120_000;

let folder;
let installed;

before(
  async () => {
    folder = await mkdtemp(join(tmpdir(), "socket-host-client-"));
    // Runs build.mjs first.
    const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", folder], { cwd: ROOT });
    const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf("[")));
    installed = join(folder, "node_modules/socket-host-client");
    await mkdir(installed, { recursive: true });
    await run("tar", ["--extract", "--gzip", "--file", join(folder, filename), "--strip-components", "1"], { cwd: installed });
  },
  { timeout },
);

after(() => rm(folder, { recursive: true, force: true }));

test("the package has the module, its source, its types and its licenses", async () => {
  const files = await readdir(installed, { recursive: true });
  assert.deepEqual(files.sort(), [
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "dist",
    "dist/reconnecting-socket.js",
    "package.json",
    "src",
    "src/reconnecting-socket.d.ts",
    "src/reconnecting-socket.js",
  ]);
  const manifest = JSON.parse(await readFile(join(installed, "package.json"), "utf8"));
  assert.equal(manifest.dependencies, undefined);
  assert.equal(manifest.peerDependencies, undefined);
  assert.equal(manifest.sideEffects, false);
});

test("the module is small", async () => {
  const module = await readFile(join(installed, "dist/reconnecting-socket.js"));
  const { length } = gzipSync(module, { level: 9 });
  assert.ok(length <= MAX_GZIP_BYTES, `${length} bytes`);
  assert.ok(length > 1_000, `${length} bytes: the module is not complete`);
});

test("the module behaves as its source", { timeout }, async () => {
  const module = pathToFileURL(join(installed, "dist/reconnecting-socket.js"));
  const tests = (await readdir(join(ROOT, "tests"))).filter((it) => it.endsWith(".test.mjs") && it !== "package.test.mjs");
  // Without the variable, the tests would report to this process.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const { stdout } = await run(process.execPath, ["--test", "--test-reporter=tap", ...tests.map((it) => join(ROOT, "tests", it))], {
    env: { ...env, CLIENT_MODULE: module },
  }).catch(({ stdout }) => assert.fail(stdout));
  const passed = Number(/^# pass (\d+)/m.exec(stdout)?.[1]);
  assert.ok(passed > 50, stdout);
});

test("the module exports what its types declare, by the package's name", async () => {
  const path = join(folder, "names.mjs");
  await writeFile(path, 'export * from "socket-host-client";\n');
  const names = Object.keys(await import(pathToFileURL(path)));
  const types = await readFile(join(installed, "src/reconnecting-socket.d.ts"), "utf8");
  const declared = [...types.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(names.sort(), declared.sort());
});

test("the types accept what works, and refuse what does not", { timeout }, async () => {
  await symlink(join(ROOT, "tests/types.ts"), join(folder, "types.ts"));
  for (const module of ["nodenext", "esnext"]) {
    const resolution = module === "esnext" ? "bundler" : module;
    await run(join(ROOT, "node_modules/.bin/tsc"), [
      ...["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--lib", "es2022,dom"],
      ...["--types", "", "--module", module, "--moduleResolution", resolution, "--preserveSymlinks"],
      join(folder, "types.ts"),
    ]).catch(({ stdout, message }) => assert.fail(`${message}\n${stdout}`));
  }
});
