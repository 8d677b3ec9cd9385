//! Debian's Pushpin: what its processes read before they serve.
//!
//! Debian builds it without an HTTP client of its own; `zurl` is that client, a second process,
//! which by default refuses to connect to the loopback.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

/// Where Debian keeps the names that Pushpin's processes find each other by.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

/// How a Pushpin is set up. Its limits on the rate of messages are always out of the way: by
/// default it sends 2,500 a second, and keeps 25,000 waiting.
pub struct Pushpin<'a> {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where publishers connect.
    pub control: SocketAddr,
    /// Where requests go.
    pub upstream: SocketAddr,
    /// What it signs with, as `base64:…` or as it is.
    pub key: &'a str,
    /// What a client's connection may keep waiting in each direction, in bytes. All of it is
    /// reserved for each of `connections`.
    pub client_buffer: usize,
    /// The most connections of clients.
    pub connections: usize,
    /// How much it logs: 0 is errors alone, 2 every request.
    pub log_level: u8,
}

/// A program, and its only argument.
pub type Program = (&'static str, String);

impl Pushpin<'_> {
    /// Writes what its processes read into `folder`, where they also meet, and gives the two
    /// programs to run: the HTTP client, and Pushpin itself.
    ///
    /// # Errors
    /// When Pushpin is not installed, or the folder cannot be written to.
    pub fn configure(&self, folder: &Path) -> Result<[Program; 2]> {
        ensure!(
            Path::new(INTERNAL).exists(),
            "{INTERNAL} is missing; `tests/install pushpin zurl` installs it on Debian"
        );
        let Self {
            public,
            control,
            upstream,
            key,
            client_buffer,
            connections,
            log_level,
        } = self;
        let here = folder.display();
        let pushpin = format!(
            "[global]
include={INTERNAL}
rundir={here}
ipc_prefix=pushpin-

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={public}
logdir={here}
log_level={log_level}
client_buffer_size={client_buffer}
client_maxconn={connections}

[proxy]
zurl_out_specs=ipc://{here}/zurl-in
zurl_out_stream_specs=ipc://{here}/zurl-in-stream
zurl_in_specs=ipc://{here}/zurl-out
routesfile=routes
sig_iss=pushpin
sig_key={key}
updates_check=off

[handler]
push_in_spec=ipc://{here}/push-in
push_in_sub_specs=ipc://{here}/push-in-sub
push_in_http_addr={}
push_in_http_port={}
stats_spec=ipc://{here}/stats
command_spec=ipc://{here}/command
message_rate=1000000000
message_hwm=1000000000
",
            control.ip(),
            control.port(),
        );
        let zurl = format!(
            "[General]
in_spec=ipc://{here}/zurl-in
in_stream_spec=ipc://{here}/zurl-in-stream
out_spec=ipc://{here}/zurl-out
in_req_spec=ipc://{here}/zurl-req
defpolicy=allow
allow=
deny=
max_open_requests=20000
buffer_size=200000
timeout=600
in_hwm=100000
out_hwm=100000
"
        );
        for (name, content) in [
            ("pushpin.conf", pushpin),
            ("zurl.conf", zurl),
            ("routes", format!("* {upstream},over_http\n")),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let configured = |name: &str| format!("--config={here}/{name}.conf");
        Ok(["zurl", "pushpin"].map(|name| (name, configured(name))))
    }
}
