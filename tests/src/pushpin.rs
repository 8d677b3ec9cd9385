//! Configuration files for Debian's Pushpin.
//!
//! Debian builds Pushpin without an HTTP client. A second process, `zurl`, is its client; by
//! default it refuses to connect to loopback addresses.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

/// The configuration, installed by Debian, with which Pushpin's processes find each other.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

/// The configuration of a Pushpin instance.
///
/// Its rate limits are always raised out of the way: by default it sends 2,500 messages a second
/// and queues 25,000.
pub struct Pushpin<'a> {
    /// The address for clients.
    pub public: SocketAddr,
    /// The address for publishers.
    pub control: SocketAddr,
    /// The address of the backend.
    pub upstream: SocketAddr,
    /// The signing key, either plain or as `base64:…`.
    pub key: &'a str,
    /// The buffer of a client connection in each direction, in bytes. Pushpin reserves it for
    /// each of `connections` at start.
    pub client_buffer: usize,
    /// The maximum number of client connections.
    pub connections: usize,
    /// The log level: 0 logs errors only, 2 logs every request.
    pub log_level: u8,
}

/// A program and its only argument.
pub type Program = (&'static str, String);

impl Pushpin<'_> {
    /// Writes the configuration into `folder`, which also holds the processes' sockets. Returns
    /// the two programs to run: the HTTP client and Pushpin itself.
    ///
    /// # Errors
    /// If Pushpin is not installed, or if the folder is not writable.
    pub fn configure(&self, folder: &Path) -> Result<[Program; 2]> {
        ensure!(
            Path::new(INTERNAL).exists(),
            "{INTERNAL} is missing: on Debian, install it with `tests/install pushpin zurl`"
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
        let dir = folder.display();
        let pushpin = format!(
            "[global]
include={INTERNAL}
rundir={dir}
ipc_prefix=pushpin-

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={public}
logdir={dir}
log_level={log_level}
client_buffer_size={client_buffer}
client_maxconn={connections}

[proxy]
zurl_out_specs=ipc://{dir}/zurl-in
zurl_out_stream_specs=ipc://{dir}/zurl-in-stream
zurl_in_specs=ipc://{dir}/zurl-out
routesfile=routes
sig_iss=pushpin
sig_key={key}
updates_check=off

[handler]
push_in_spec=ipc://{dir}/push-in
push_in_sub_specs=ipc://{dir}/push-in-sub
push_in_http_addr={}
push_in_http_port={}
stats_spec=ipc://{dir}/stats
command_spec=ipc://{dir}/command
message_rate=1000000000
message_hwm=1000000000
",
            control.ip(),
            control.port(),
        );
        let zurl = format!(
            "[General]
in_spec=ipc://{dir}/zurl-in
in_stream_spec=ipc://{dir}/zurl-in-stream
out_spec=ipc://{dir}/zurl-out
in_req_spec=ipc://{dir}/zurl-req
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
        let config_option = |name: &str| format!("--config={dir}/{name}.conf");
        Ok(["zurl", "pushpin"].map(|name| (name, config_option(name))))
    }
}
