// Minifies the module into dist/, and copies the licenses, before the package is packed.

import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";

import { minify } from "terser";

const NAME = "reconnecting-socket.js";
const here = (path) => new URL(path, import.meta.url);

const source = await readFile(here(`src/${NAME}`), "utf8");
const { code } = await minify(source, { module: true, compress: { passes: 3 } });
await mkdir(here("dist"), { recursive: true });
await writeFile(here(`dist/${NAME}`), code);
for (const license of ["LICENSE-APACHE", "LICENSE-MIT"]) await copyFile(here(`../${license}`), here(license));
