//! Certificates: which one a client gets, their renewal, and those that cannot be used.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{Server, eventually, host_binary, probe};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::{
    authority::{Authority, serve, serve_without_terminal},
    client::{connect, connect_with, get},
};

const RELOADED: &str = "TLS certificates reloaded";

#[tokio::test]
async fn both_versions_of_http_and_of_tls_are_served() -> Result<()> {
    let (host, authority, _folder) = serve(&["--hsts", "365d"])?;
    for (protocols, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(host.address, "localhost", &authority.root(), protocols).await?;
        ensure!(
            stream.get_ref().1.alpn_protocol() == chosen,
            "{protocols:?}"
        );
    }
    for version in [&TLS12, &TLS13] {
        let root = authority.root();
        let mut stream = connect_with(host.address, "localhost", &root, &[], &[version]).await?;
        let response = get(&mut stream, "/headers").await?;
        ensure!(response.status == 200, "{response:?}");
        ensure!(
            response
                .body
                .contains("\"spin-full-url\":\"https://localhost/headers\""),
            "{response:?}"
        );
        ensure!(
            response
                .head
                .contains("strict-transport-security: max-age=31536000")
        );
    }
    // A version that is not safe, and no TLS at all.
    let old = Command::new("openssl")
        .args([
            "s_client",
            "-tls1_1",
            "-cipher",
            "ALL:@SECLEVEL=0",
            "-connect",
        ])
        .arg(host.address.to_string())
        .stdin(Stdio::null())
        .output()
        .context("openssl")?;
    let text = String::from_utf8_lossy(&old.stderr);
    ensure!(!old.status.success() && text.contains("alert"), "{text}");
    ensure!(host.get("/").await.is_err(), "plain HTTP gets no response");
    Ok(())
}

#[tokio::test]
async fn clients_get_the_certificate_for_their_name() -> Result<()> {
    let authority = Authority::new()?;
    let first = authority.issue("first", &["first.example"])?;
    let second = authority.issue("second", &["second.example", "*.wild.example"])?;
    let folder = probe("");
    let options = [first.options()?, second.options()?].concat();
    let host = Server::start(folder.path(), &options)?;
    for (name, is_served) in [
        ("first.example", true),
        ("second.example", true),
        ("a.wild.example", true),
        ("a.b.wild.example", false),
        ("other.example", false),
    ] {
        let connected = connect(host.address, name, &authority.root(), &[]).await;
        ensure!(
            connected.is_ok() == is_served,
            "{name}: {:?}",
            connected.err()
        );
    }
    Ok(())
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart() -> Result<()> {
    let (host, authority, _folder) = serve_without_terminal()?;
    let mut open = connect(host.address, "localhost", &authority.root(), &[]).await?;
    let certificate = async || {
        let stream = connect(host.address, "localhost", &authority.root(), &[]).await?;
        let certificates = stream
            .get_ref()
            .1
            .peer_certificates()
            .context("a certificate")?;
        anyhow::Ok(certificates[0].to_vec())
    };
    let first = certificate().await?;

    // Changed files are noticed.
    authority.issue("localhost", &["localhost"])?;
    let renewed = eventually("the new certificate", async || {
        let current = certificate().await.ok();
        current.filter(|current| *current != first)
    })
    .await?;
    // A signal reloads files that have not changed.
    host.signal(Signal::HUP)?;
    eventually("another reload", async || {
        let reloads = host.log_text().matches(RELOADED).count();
        (reloads >= 2).then_some(())
    })
    .await?;
    let response = get(&mut open, "/").await?;
    ensure!(
        response.status == 200,
        "open connections stay: {response:?}"
    );

    // A renewal that fails is logged, and changes nothing.
    fs::write(authority.folder().join("localhost.key"), "nonsense")?;
    host.wait_for_log(&[
        "cannot reload TLS certificates",
        "--tls-key",
        "no private key",
    ])
    .await?;
    ensure!(certificate().await? == renewed);
    Ok(())
}

#[tokio::test]
async fn renewals_under_load_lose_no_request() -> Result<()> {
    let (host, authority, _folder) = serve_without_terminal()?;
    let (address, root) = (host.address, authority.root());
    let load = tokio::spawn(async move {
        let mut requests = 0;
        while requests < 300 {
            let mut stream = connect(address, "localhost", &root, &[]).await?;
            for _ in 0..3 {
                let response = get(&mut stream, "/").await?;
                ensure!(response.status == 200, "{response:?}");
                requests += 1;
            }
        }
        anyhow::Ok(())
    });
    while !load.is_finished() {
        authority.issue("localhost", &["localhost"])?;
        host.signal(Signal::HUP)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load.await??;
    host.wait_for_log(&[RELOADED]).await?;
    Ok(())
}

#[tokio::test]
async fn unusable_certificates_are_errors_at_the_start() -> Result<()> {
    let authority = Authority::new()?;
    let valid = authority.issue("valid", &["localhost"])?;
    let expired = authority.issue_until("expired", &["localhost"], 2021)?;
    let text = authority.folder().join("text.pem");
    fs::write(&text, "no certificate")?;
    let encrypted = authority.folder().join("encrypted.key");
    let begin =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(&encrypted, begin)?;
    let missing = authority.folder().join("missing.pem");
    let folder = probe("");
    for (certificate, key, words) in [
        (
            &valid.certificate,
            &expired.key,
            ["--tls-key", "does not belong to the certificate"],
        ),
        (
            &expired.certificate,
            &expired.key,
            ["--tls-cert", "expired at"],
        ),
        (&missing, &valid.key, ["--tls-cert", "cannot read"]),
        (&text, &valid.key, ["--tls-cert", "contains no certificate"]),
        (
            &valid.certificate,
            &text,
            ["--tls-key", "contains no private key"],
        ),
        (
            &valid.certificate,
            &encrypted,
            ["--tls-key", "is encrypted"],
        ),
    ] {
        let options = [
            "--tls-cert",
            certificate.to_str().context("a path")?,
            "--tls-key",
            key.to_str().context("a path")?,
        ];
        let error = Server::start_error(folder.path(), &options)?;
        for word in words {
            ensure!(error.contains(word), "no {word:?} in {error}");
        }
    }
    for (options, words) in [
        (&["--hsts", "1d"][..], "--hsts needs a certificate"),
        (
            &["--http-redirect", "127.0.0.1:0"],
            "--http-redirect needs a certificate",
        ),
        (&["--tls-cert", "a.pem"], "--tls-key"),
    ] {
        let error = Server::start_error(folder.path(), options)?;
        ensure!(error.contains(words), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_chain_that_is_out_of_order_is_logged() -> Result<()> {
    let authority = Authority::new()?;
    let files = authority.issue("leaf", &["localhost"])?;
    // The wrong authority after the certificate.
    let other_authority = Authority::new()?;
    let other = other_authority.issue("other", &["other"])?;
    let chain = fs::read_to_string(&files.certificate)? + &fs::read_to_string(&other.certificate)?;
    fs::write(&files.certificate, chain)?;
    let folder = probe("");
    let host = Server::start(folder.path(), &files.options()?)?;
    host.wait_for_log(&["certificate chain is out of order"])
        .await?;
    let other = other_authority.root();
    let refused = connect(host.address, "localhost", &other, &[]).await;
    ensure!(refused.is_err(), "the client does not know the authority");
    connect(host.address, "localhost", &authority.root(), &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_single_certificate_may_come_from_the_environment() -> Result<()> {
    let authority = Authority::new()?;
    let files = authority.issue("localhost", &["localhost"])?;
    let folder = probe("");
    let mut command = Command::new(host_binary());
    command
        .args(["up", "--from"])
        .arg(folder.path())
        .env("SPIN_TLS_CERT", &files.certificate)
        .env("SPIN_TLS_KEY", &files.key);
    let host = Server::run(command, &[])?;
    connect(host.address, "localhost", &authority.root(), &[]).await?;
    Ok(())
}
