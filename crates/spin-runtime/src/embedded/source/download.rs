//! Downloads a file over HTTP, within bounds of size and time.

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;
use url::Url;

use crate::{embedded::client::tls_config, limits::Limits, manifest::Source};

/// The redirects that are followed, as by most clients.
const MAX_REDIRECTS: usize = 10;

/// Downloads a file. Blocks the thread, which must not be one of a Tokio runtime.
///
/// # Errors
/// Fails if the server cannot be reached or does not respond with the file, or if the file exceeds
/// the limits.
pub(super) fn download(url: &str, limits: &Limits) -> anyhow::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the download")?;
    let limit = limits.download_timeout;
    // A timeout must be created within the runtime.
    let contents = runtime.block_on(async { timeout(limit, fetch(url, limits)).await });
    let contents = contents.unwrap_or_else(|_| Err(anyhow!("timed out after {limit:?}")));
    // A name that is still being resolved does not delay the error.
    runtime.shutdown_background();
    contents.with_context(|| format!("cannot download {}", Source::display_url(url)))
}

async fn fetch(url: &str, limits: &Limits) -> anyhow::Result<Vec<u8>> {
    let client = client(limits);
    let mut url = Url::parse(url)?;
    for _ in 0..=MAX_REDIRECTS {
        let request = Request::get(url.as_str())
            .header(header::USER_AGENT, "socket-host")
            .body(Empty::<Bytes>::new())?;
        let response = client
            .request(request)
            .await
            .map_err(|error| anyhow!("server unreachable: {}", causes(&error)))?;
        match redirect(&url, &response)? {
            Some(target) => url = target,
            None => return read(response, limits.download_bytes).await,
        }
    }
    bail!("too many redirects: more than {MAX_REDIRECTS}")
}

fn client(limits: &Limits) -> Client<HttpsConnector<HttpConnector>, Empty<Bytes>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(limits.connect_timeout));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config())
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Returns where a response redirects to, if it does.
fn redirect(url: &Url, response: &Response<Incoming>) -> anyhow::Result<Option<Url>> {
    let status = response.status();
    let is_redirect = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !is_redirect {
        ensure!(status.is_success(), "the server responded with {status}");
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    let location = location.with_context(|| format!("{status} without a valid location"))?;
    let target = url.join(location).context("redirect to an invalid URL")?;
    ensure!(
        matches!(target.scheme(), "http" | "https"),
        "redirect to {} is neither http nor https",
        Source::display_url(target.as_str())
    );
    Ok(Some(target))
}

async fn read(response: Response<Incoming>, max_bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut body = response.into_body();
    let too_large = || anyhow!("the file is larger than {max_bytes} bytes");
    if body.size_hint().lower() > u64::try_from(max_bytes)? {
        return Err(too_large());
    }
    let mut contents = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("connection lost: {}", causes(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if contents.len() + data.len() > max_bytes {
            return Err(too_large());
        }
        contents.extend_from_slice(&data);
    }
    Ok(contents)
}

/// Returns an error with its causes, which hyper leaves out.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
