// Writes and builds the projects in docs/first-component.md and docs/grip.md, as they stand there.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PROGRAM } from "./host.mjs";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** tests/run installs the Python packages here. */
const VENV = `${ROOT}target/interop-venv`;
const BUILD_TIMEOUT_MS = 600_000;

const run = promisify(execFile);

/** A project in a temporary folder. */
export class Project {
  /** The project's folder. */
  folder;

  /** Writes the files of the section `heading` of docs/first-component.md. */
  static async fromPage(heading) {
    const page = await readFile(`${ROOT}docs/first-component.md`, "utf8");
    const section = page.split(/^## /m).find((text) => text.startsWith(`${heading}\n`));
    assert.ok(section, `the page has no section ${heading}`);
    const project = await Project.#create();
    for (const [, name, text] of section.matchAll(/^\*\*`(\S+)`\*\*[^\n]*\n\n```\w*\n(.*?)^```$/gms)) {
      await project.write(name, text);
    }
    return project;
  }

  /** Writes the component in docs/grip.md, with `cargo`, the Cargo.toml of another project. */
  static async fromGuide(cargo) {
    const guide = await readFile(`${ROOT}docs/grip.md`, "utf8");
    const block = (start) => {
      const at = guide.indexOf(start);
      assert.notEqual(at, -1, `the guide has no ${start}`);
      return guide.slice(guide.indexOf("\n", at) + 1, guide.indexOf("\n```", at) + 1);
    };
    const project = await Project.#create();
    await project.write("Cargo.toml", cargo);
    await project.write("src/lib.rs", block("```rust,no_run"));
    const manifest = `spin_manifest_version = 2\napplication.name = "guide"\n${block("```toml")}`;
    await project.write("spin.toml", manifest);
    return project;
  }

  static async #create() {
    const project = new Project();
    project.folder = await mkdtemp(join(tmpdir(), "project-"));
    return project;
  }

  read(name) {
    return readFile(join(this.folder, name), "utf8");
  }

  async write(name, text) {
    const path = join(this.folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }

  /** Replaces text that the file must contain. */
  async replace(name, from, to) {
    const text = await this.read(name);
    assert.ok(text.includes(from), `${name} does not contain ${from}`);
    await this.write(name, text.replaceAll(from, to));
  }

  /** Uses the crate of this repository, its versions of other crates, and its build output. */
  async prepareCargo() {
    await this.replace("Cargo.toml", '"../socket-host/crates/grip"', `"${ROOT}crates/grip"`);
    await copyFile(`${ROOT}Cargo.lock`, join(this.folder, "Cargo.lock"));
    const target = `${ROOT}target/first-component`;
    await mkdir(target, { recursive: true });
    await symlink(target, join(this.folder, "target"));
  }

  /** Runs the build commands in the manifest. */
  async build() {
    await this.run(PROGRAM, "build");
  }

  async run(...[program, ...args]) {
    const env = { ...process.env, ...(await toolchain()), VIRTUAL_ENV: VENV };
    env.PATH = `${VENV}/bin:${env.PATH}`;
    // The output goes to the folder that the manifest names.
    delete env.CARGO_TARGET_DIR;
    await run(program, args, { cwd: this.folder, env, timeout: BUILD_TIMEOUT_MS, maxBuffer: 1 << 26 });
  }

  remove() {
    return rm(this.folder, { recursive: true });
  }
}

/** Returns the environment that selects the Rust that components/build uses. */
async function toolchain() {
  const debian = { RUSTUP_TOOLCHAIN: "debian" };
  if (process.env.WASM_TARGET_FROM === "debian") return debian;
  try {
    const { stdout } = await run("rustc", ["--print", "target-libdir", "--target", "wasm32-wasip2"]);
    await access(stdout.trim());
    return {};
  } catch {
    return debian;
  }
}
