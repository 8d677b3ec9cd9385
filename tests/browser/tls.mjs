// A certificate for the hosts, and clients that trust it. With the environment variable TLS=1, all hosts use TLS.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp, readFile } from "node:fs/promises";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { promisify } from "node:util";

const TLS = process.env.TLS ?? "0";
assert.ok(["0", "1"].includes(TLS), `TLS is ${TLS}`);

/** Whether the hosts use TLS by default. */
export const isTls = TLS === "1";

const SUBJECT = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];

let certificate;

/** Returns the certificate and its key, each as a path and in PEM. Each process generates one. */
export function testCertificate() {
  certificate ??= generate();
  return certificate;
}

async function generate() {
  const folder = await mkdtemp(join(tmpdir(), "socket-burger-tls-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const [certPath, keyPath] = ["cert.pem", "key.pem"].map((name) => join(folder, name));
  await promisify(execFile)("openssl", [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
    ...["-days", "30", "-out", certPath, "-keyout", keyPath],
    ...SUBJECT,
  ]);
  const [cert, key] = await Promise.all([readFile(certPath, "utf8"), readFile(keyPath, "utf8")]);
  return { certPath, keyPath, cert, key };
}

/** Returns the argument with which Chromium trusts the certificate. */
export async function trustArgument() {
  const { cert } = await testCertificate();
  const publicKey = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  const hash = createHash("sha256").update(publicKey).digest("base64");
  return `--ignore-certificate-errors-spki-list=${hash}`;
}

/** Like `fetch`, but trusts the certificate. The body of a request is a string. */
export async function fetchTrusting(url, { method = "GET", headers = {}, body = "" } = {}) {
  const { cert: ca } = await testCertificate();
  const request = httpsRequest(url, { method, headers, ca });
  request.end(body);
  const [response] = await once(request, "response");
  const { statusCode: status, headers: received } = response;
  return new Response(await buffer(response), { status, headers: new Headers(Object.entries(received)) });
}
