//! TLS upstreams. The certificates in `tests/fixtures/tls` were created for these tests.

use std::{process::Command, sync::Arc};

use anyhow::{Result, ensure};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use spin_runtime::backend::{Body, full};
use tests::{Server, host_binary, request, workspace};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::backend::Backend;

/// Responds with the HTTP version of the request.
async fn version(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    Ok(Response::new(full(format!("{:?}", request.version()))))
}

/// Starts a server that offers these ALPN protocols.
async fn backend(protocols: &[&str]) -> Result<Backend> {
    let folder = workspace().join("tests/fixtures/tls");
    let certificate = CertificateDer::from_pem_file(folder.join("localhost.pem"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("localhost.key"))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Backend::script(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(version))
                    .await;
            }
        }
    })
    .await
}

fn host(url: &str, trusted: bool) -> Result<Server> {
    let mut command = Command::new(host_binary());
    command.args(["up", "--upstream", url]);
    if trusted {
        let authority = workspace().join("tests/fixtures/tls/ca.pem");
        command.env("SSL_CERT_FILE", authority);
    }
    // Without a manifest.
    let folder = tempfile::TempDir::new()?;
    Server::run(command.current_dir(folder.path()), &[])
}

#[tokio::test]
async fn alpn_selects_the_http_version() -> Result<()> {
    for (protocols, version, connections) in [
        (&["h2", "http/1.1"][..], "HTTP/2.0", 1),
        (&["http/1.1"], "HTTP/1.1", 3),
        (&[], "HTTP/1.1", 3),
    ] {
        let backend = backend(protocols).await?;
        let host = host(&backend.url("https"), true)?;
        for _ in 0..3 {
            let response = host.get("/").await?;
            ensure!(
                response == (200, version.to_owned()),
                "{protocols:?}: {response:?}"
            );
        }
        let opened = backend.connections();
        ensure!(opened <= connections, "{protocols:?}: {opened} connections");
    }
    Ok(())
}

#[tokio::test]
async fn an_untrusted_certificate_is_a_502() -> Result<()> {
    let backend = backend(&["h2", "http/1.1"]).await?;
    let host = host(&backend.url("https"), false)?;
    let response = request(host.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    ensure!(response.status == 502, "{response:?}");
    ensure!(response.body == "upstream unreachable\n", "{response:?}");
    host.wait_for_log(&["upstream request failed", "certificate"])
        .await?;
    Ok(())
}
