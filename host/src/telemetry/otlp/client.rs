//! Sends messages to a collector, over HTTP or gRPC.

use std::{io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::Scheme,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::time::timeout;

use super::options::{Endpoint, Protocol};

/// The largest response that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The statuses of gRPC after which the message may be sent again, as OTLP defines them: canceled,
/// deadline exceeded, resource exhausted, aborted, out of range, unavailable, and data loss.
const RETRYABLE_GRPC: [&str; 7] = ["1", "4", "8", "10", "11", "14", "15"];

/// Sends the messages of one kind to a collector.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Endpoint,
}

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The collector may accept it later.
    #[error("{0}")]
    Temporary(String),
    /// The collector will not accept it.
    #[error("{0}")]
    Permanent(String),
}

impl Client {
    /// Creates a client without connections.
    ///
    /// # Errors
    /// Fails if a file with certificates cannot be used.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&endpoint)?)
            .https_or_http();
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        let http = match endpoint.protocol {
            Protocol::Grpc => builder
                .http2_only(true)
                .build(connector.enable_http2().build()),
            Protocol::HttpProtobuf => builder.build(connector.enable_all_versions().build()),
        };
        Ok(Self { http, endpoint })
    }

    /// Sends a message, and waits until the collector has accepted it.
    ///
    /// # Errors
    /// Fails if the collector cannot be reached, does not accept the message, or does not respond
    /// in time.
    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), SendError> {
        let sent = async {
            let response = self.http.request(self.request(message)).await;
            let response = response.map_err(|error| SendError::Temporary(chain(&error)))?;
            match self.endpoint.protocol {
                Protocol::HttpProtobuf => check(response).await,
                Protocol::Grpc => check_grpc(response).await,
            }
        };
        let sent = timeout(self.endpoint.timeout, sent).await;
        sent.unwrap_or_else(|_| Err(SendError::Temporary("the request timed out".to_owned())))
    }

    fn request(&self, message: Vec<u8>) -> Request<Full<Bytes>> {
        let is_compressed = self.endpoint.is_compressed;
        let message = if is_compressed {
            gzip(&message)
        } else {
            message
        };
        let gzip = is_compressed.then_some(HeaderValue::from_static("gzip"));
        let mut headers = self.endpoint.headers.clone();
        let (content_type, encoding, body) = match self.endpoint.protocol {
            Protocol::HttpProtobuf => (
                "application/x-protobuf",
                header::CONTENT_ENCODING,
                Bytes::from(message),
            ),
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                let encoding = HeaderName::from_static("grpc-encoding");
                (
                    "application/grpc",
                    encoding,
                    grpc_frame(&message, is_compressed),
                )
            }
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(gzip) = gzip {
            headers.insert(encoding, gzip);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri.clone();
        *request.headers_mut() = headers;
        request
    }
}

/// Checks the response to a message over HTTP.
async fn check(response: Response<Incoming>) -> Result<(), SendError> {
    let status = response.status();
    // Read, so that the connection can be used again.
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
    let read = body.collect().await;
    let text = format!("the collector responded with {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(SendError::Temporary(text)),
        status if !status.is_success() => Err(SendError::Permanent(text)),
        _ if read.is_err() => Err(SendError::Temporary("the response ended early".to_owned())),
        _ => Ok(()),
    }
}

/// Checks the response to a gRPC call, whose status is in the trailers, or in the headers of a
/// response without a body.
async fn check_grpc(response: Response<Incoming>) -> Result<(), SendError> {
    let (parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        let text = format!("the collector responded with {}", parts.status);
        return Err(SendError::Temporary(text));
    }
    let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await;
    let body = body.map_err(|error| SendError::Temporary(error.to_string()))?;
    let status = |headers: &HeaderMap| {
        let status = headers.get(GRPC_STATUS)?.to_str().ok()?;
        Some(status.to_owned())
    };
    let in_trailers = body.trailers().and_then(status);
    match in_trailers.or_else(|| status(&parts.headers)).as_deref() {
        Some("0") => Ok(()),
        Some(status) => {
            let text = format!("the collector responded with gRPC status {status}");
            Err(if RETRYABLE_GRPC.contains(&status) {
                SendError::Temporary(text)
            } else {
                SendError::Permanent(text)
            })
        }
        None => Err(SendError::Permanent(
            "the response has no gRPC status".to_owned(),
        )),
    }
}

/// Returns a message with the prefix that gRPC demands.
fn grpc_frame(message: &[u8], is_compressed: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(is_compressed.into());
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default()
}

/// Returns the settings of TLS, which an endpoint without TLS does not use.
fn tls_config(endpoint: &Endpoint) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &endpoint.roots {
        Some(file) => {
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("invalid certificate in {}", file.display()))?;
            }
        }
        None if endpoint.uri.scheme() == Some(&Scheme::HTTPS) => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                // Systems may have certificates that rustls does not support.
                let _ = roots.add(certificate);
            }
        }
        None => {}
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    match &endpoint.identity {
        None => Ok(config.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private_key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("cannot read the key {}", key.display()))?;
            config
                .with_client_auth_cert(chain, private_key)
                .with_context(|| format!("{} does not fit its key", certificate.display()))
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect();
    let certificates: Result<_, rustls::pki_types::pem::Error> = read();
    certificates.with_context(|| format!("cannot read the certificates in {}", file.display()))
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
