// Runs Debian's Pushpin in front of a server that runs the components.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { freePort, run, standIn } from "./backend.mjs";
import { eventually } from "./page.mjs";
import { Service } from "./service.mjs";

export class Pushpin extends Service {
  #ends = [];

  /** Starts Pushpin and the components of a manifest, whose orders are in `stateDir`. `key` is their GRIP key. */
  static async start({ manifest, stateDir, key }) {
    const pushpin = new Pushpin();
    const [port, control] = [await freePort(), await freePort()];
    pushpin.url = `http://127.0.0.1:${port}`;
    pushpin.control = `http://127.0.0.1:${control}`;
    const components = await standIn(manifest, stateDir, `127.0.0.1:${control}`, key);
    const folder = join(stateDir, "pushpin");
    await mkdir(folder);
    const files = configuration({ folder, port, control, upstream: new URL(components.url).host, key });
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
    // Debian builds Pushpin without an HTTP client, which is a process of its own.
    // If killed, Pushpin would leave its child processes behind.
    const processes = ["zurl", "pushpin"].map((name) => run(name, [`--config=${folder}/${name}.conf`], "SIGTERM"));
    pushpin.#ends = [components, ...processes].map(({ end }) => end);
    try {
      // Pushpin may lose a request that arrives before its HTTP client is ready.
      await eventually(() => fetch(`${pushpin.url}/api/orders`, { signal: AbortSignal.timeout(2_000) }));
      await eventually(() => pushpin.newest());
    } catch (error) {
      await pushpin.stop();
      throw error;
    }
    return pushpin;
  }

  async stop() {
    for (const end of this.#ends.reverse()) await end();
  }
}

/** Returns configuration files by their names. */
function configuration({ folder, port, control, upstream, key }) {
  return {
    routes: `* ${upstream},over_http\n`,
    "pushpin.conf": `[global]
include=/usr/lib/pushpin/internal.conf
rundir=${folder}
ipc_prefix=pushpin-

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:${port}
logdir=${folder}
log_level=0
client_maxconn=1000

[proxy]
zurl_out_specs=ipc://${folder}/zurl-in
zurl_out_stream_specs=ipc://${folder}/zurl-in-stream
zurl_in_specs=ipc://${folder}/zurl-out
routesfile=routes
sig_iss=pushpin
sig_key=${key}
updates_check=off

[handler]
push_in_spec=ipc://${folder}/push-in
push_in_sub_specs=ipc://${folder}/push-in-sub
push_in_http_addr=127.0.0.1
push_in_http_port=${control}
stats_spec=ipc://${folder}/stats
command_spec=ipc://${folder}/command
`,
    // By default, it does not connect to loopback addresses.
    "zurl.conf": `[General]
in_spec=ipc://${folder}/zurl-in
in_stream_spec=ipc://${folder}/zurl-in-stream
out_spec=ipc://${folder}/zurl-out
in_req_spec=ipc://${folder}/zurl-req
defpolicy=allow
allow=
deny=
timeout=600
`,
  };
}
