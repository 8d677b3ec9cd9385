//! Whether ports are free, folders can be written to, and enough files can be open.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use rustix::fs::{Access, access};
use spin_runtime::RuntimeConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::Finding;
use crate::{HostOptions, config::AppConfig, net::connections::ConnectionLimits};

/// How long whatever uses a port has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Examines the ports that the host listens on.
pub(super) async fn ports(options: &HostOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let redirect = options.http_redirect;
    for (subject, address, option) in [
        ("public port", Some(options.listen), "--listen"),
        ("control port", Some(options.control), "--control"),
        ("redirect port", redirect, "--http-redirect"),
    ] {
        if let Some(address) = address {
            findings.push(port(subject, address, option).await);
        }
    }
    findings
}

async fn port(subject: &str, address: SocketAddr, option: &str) -> Finding {
    let error = match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => {
            return Finding::good(subject, format!("{address}: the system chooses a port"));
        }
        Ok(_) => return Finding::good(subject, format!("{address} is free")),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse if is_control_port(address).await => Finding::failure(
            subject,
            format!("{address} is used by another socket-host"),
            format!("stop it, or choose another address with {option}"),
        ),
        io::ErrorKind::AddrInUse => Finding::failure(
            subject,
            format!("{address} is in use"),
            format!("stop the program that uses it, or choose another address with {option}"),
        ),
        io::ErrorKind::PermissionDenied => Finding::failure(
            subject,
            format!("{address} is not allowed: ports below 1024 need a privilege"),
            format!(
                "choose another port with {option}, pass a socket as systemd does, or give the \
                 program CAP_NET_BIND_SERVICE"
            ),
        ),
        io::ErrorKind::AddrNotAvailable => Finding::failure(
            subject,
            format!("{address} is not an address of this machine"),
            format!("choose one of its addresses, or 0.0.0.0 for all, with {option}"),
        ),
        _ => Finding::failure(
            subject,
            format!("cannot listen on {address}: {error}"),
            format!("choose another address with {option}"),
        ),
    }
}

/// Returns whether a control port listens on an address.
async fn is_control_port(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /healthz HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.take(4096).read_to_string(&mut response).await?;
        io::Result::Ok(response.contains("\"status\":") && response.contains("\"sessions\":"))
    };
    let answer = timeout(ANSWER_TIMEOUT, asked).await;
    answer.is_ok_and(|answer| answer.unwrap_or(false))
}

/// Examines whether enough files can be open for the WebSockets that are configured.
pub(super) fn file_limit(max_connections: usize) -> Finding {
    let subject = "open files";
    let possible = ConnectionLimits::after_raising().cap(max_connections);
    if possible == max_connections {
        return Finding::good(subject, format!("enough for {max_connections} WebSockets"));
    }
    Finding::warning(
        subject,
        format!("enough for {possible} WebSockets, and max-connections is {max_connections}"),
        "raise the hard limit (ulimit -Hn, or LimitNOFILE= of systemd), or lower max-connections",
    )
}

/// Examines whether the state folder can be written to.
pub(super) fn state_folder(
    options: &HostOptions,
    config: &AppConfig,
    runtime_config: &RuntimeConfig,
) -> Finding {
    let configured = options.state_dir.as_ref();
    let configured = configured.or(runtime_config.state_dir.as_ref());
    let folder = match configured {
        Some(folder) => folder.clone(),
        None => config.manifest.root.join(".spin"),
    };
    // What does not exist is created.
    let existing = folder.ancestors().find(|it| it.exists());
    let existing = existing.unwrap_or(Path::new("."));
    let subject = "state folder";
    if existing.is_dir() && access(existing, Access::WRITE_OK).is_ok() {
        Finding::good(subject, format!("{} is writable", folder.display()))
    } else {
        Finding::failure(
            subject,
            format!("cannot write to {}", existing.display()),
            "change its permissions, or choose another folder with --state-dir",
        )
    }
}
