//! Pushpin as Debian packages it: its configuration in a folder, and the two programs it takes.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

use crate::target::Start;

/// What comes with the package and is the same for all.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

/// Pushpin between `address` and `backend`, taking publishes at `control`. It publishes without
/// its default limits of 2,500 messages a second and 25,000 waiting.
pub fn start(
    folder: &Path,
    address: SocketAddr,
    control: SocketAddr,
    backend: SocketAddr,
) -> Result<Start> {
    ensure!(
        Path::new(INTERNAL).is_file(),
        "{INTERNAL} is missing: apt-get install pushpin zurl"
    );
    let at = folder.display();
    let (ip, port) = (control.ip(), control.port());
    let files = [
        ("routes", format!("* {backend},over_http\n")),
        (
            "pushpin.conf",
            format!(
                "[global]\ninclude={INTERNAL}\nrundir={at}\nipc_prefix=\nport_offset=0\n\
                 [runner]\nservices=condure,pushpin-proxy,pushpin-handler\n\
                 http_port={public_ip}:{public_port}\nlogdir={at}\nlog_level=0\n\
                 client_buffer_size=8192\nclient_maxconn=50000\n\
                 [proxy]\nroutesfile=routes\nsig_key=changeme\n\
                 zurl_out_specs=ipc://{at}/zurl-in\n\
                 zurl_out_stream_specs=ipc://{at}/zurl-in-stream\n\
                 zurl_in_specs=ipc://{at}/zurl-out\n\
                 [handler]\npush_in_http_addr={ip}\npush_in_http_port={port}\n\
                 message_rate=1000000000\nmessage_hwm=1000000000\n",
                public_ip = address.ip(),
                public_port = address.port(),
            ),
        ),
        (
            "zurl.conf",
            format!(
                "[General]\nin_spec=ipc://{at}/zurl-in\n\
                 in_stream_spec=ipc://{at}/zurl-in-stream\nout_spec=ipc://{at}/zurl-out\n\
                 in_req_spec=ipc://{at}/zurl-req\ndefpolicy=allow\nallow=\ndeny=\n\
                 max_open_requests=20000\nbuffer_size=200000\ntimeout=600\n\
                 in_hwm=100000\nout_hwm=100000\n"
            ),
        ),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).with_context(|| format!("writing {name} to {at}"))?;
    }
    let program = |name: &str, config: &str| Start {
        program: name.into(),
        arguments: vec![format!("--config={}", folder.join(config).display())],
        beside: Vec::new(),
    };
    Ok(Start {
        beside: vec![program("zurl", "zurl.conf")],
        ..program("pushpin", "pushpin.conf")
    })
}
