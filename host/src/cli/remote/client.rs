//! The client of a control port, and the options that say where it is.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use grip::Key;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;
use url::Url;

use crate::{config::Limits, http::signer::Signer};

/// The time to connect.
const CONNECT_TIMEOUT: Duration = Limits::DEFAULT.upstream_connect_timeout;

/// The time to the head of the response. A publish request waits for slow clients.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is encoded in a segment of a path (RFC 3986, section 3.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where the control port of a running host is, and how to be allowed to use it.
#[derive(Args)]
pub(in crate::cli) struct ControlPort {
    /// The control port of the host, as an address or a URL.
    #[arg(
        long,
        value_name = "ADDRESS|URL",
        env = "SOCKET_HOST_CONTROL",
        default_value = "127.0.0.1:5561",
        value_parser = parse_url
    )]
    control: Url,
    /// The key of the host, if it was started with one. It signs a token for each request.
    #[arg(
        long,
        value_name = "KEY",
        env = "SOCKET_HOST_GRIP_KEY",
        hide_env_values = true
    )]
    grip_key: Option<String>,
    /// A token that is signed with the key of the host, instead of the key.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "SOCKET_HOST_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
}

/// A client of a control port.
pub(super) struct ControlClient {
    url: Url,
    authorization: Option<HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl ControlPort {
    /// Creates a client.
    ///
    /// # Errors
    /// Fails if the key or the token is invalid, or there are no root certificates for TLS.
    pub(super) fn client(self) -> Result<ControlClient> {
        let token = match (self.token, self.grip_key) {
            (Some(token), _) => Some(HeaderValue::from_str(&token).context("--token")?),
            (None, Some(key)) => Some(Signer::new(Key::parse(&key).context("--grip-key")?).token()),
            (None, None) => None,
        };
        let authorization = token.map(|token| {
            let value = [b"Bearer ", token.as_bytes()].concat();
            HeaderValue::from_bytes(&value)
        });
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let builder = HttpsConnectorBuilder::new();
        let builder = if self.control.scheme() == "https" {
            builder.with_native_roots().context(
                "no root certificates for an https control port: install the package \
                 ca-certificates, or set SSL_CERT_FILE",
            )?
        } else {
            // They are never used, and reading those of the system takes a while.
            builder.with_webpki_roots()
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        let mut client = Client::builder(TokioExecutor::new());
        Ok(ControlClient {
            url: self.control,
            authorization: authorization.transpose()?,
            http: client.pool_timer(TokioTimer::new()).build(connector),
        })
    }
}

impl ControlClient {
    /// Sends a request for a path with a query, and returns the successful response.
    ///
    /// # Errors
    /// Fails if the host cannot be reached, or refuses the request.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        let url = self.url.join(target).context("invalid path")?;
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().context("invalid URL")?;
        *request.headers_mut() = headers;
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let response = timeout(RESPONSE_TIMEOUT, self.http.request(request)).await;
        let response = response.map_err(|_| anyhow!("the host at {} timed out", self.url))?;
        let response = response.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |it| format!(": {it}"));
            anyhow!(
                "no host at {}{cause}. Start one, or set --control to the address that it prints as \
                 \"Control\"",
                self.url
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = text(response).await?;
        let text = text.trim();
        match status {
            StatusCode::UNAUTHORIZED => bail!(
                "{text}. Set --grip-key or SOCKET_HOST_GRIP_KEY to the key of the host, or --token to \
                 a token"
            ),
            _ if text.is_empty() => bail!("the host responded with {status}"),
            _ => bail!("{text}"),
        }
    }

    /// Sends a request without a body, and returns the response as JSON.
    ///
    /// # Errors
    /// Fails as [`Self::send`] does, or if the response is not JSON.
    pub(super) async fn json(&self, method: Method, target: &str) -> Result<serde_json::Value> {
        let response = self.send(method, target, HeaderMap::new(), "").await?;
        json(response).await
    }
}

/// Reads the body of a response as JSON.
///
/// # Errors
/// Fails if the connection breaks, or the body is something else.
pub(super) async fn json(response: Response<Incoming>) -> Result<serde_json::Value> {
    let text = text(response).await?;
    serde_json::from_str(&text).context("the response is not one of a control port")
}

async fn text(response: Response<Incoming>) -> Result<String> {
    let body = response.into_body().collect().await;
    let body = body.context("the connection to the host was lost")?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// Encodes a segment of a path, or a value of a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Parses the address or the URL of a control port.
fn parse_url(text: &str) -> Result<Url, String> {
    let expected = "expected an address with a port, such as 127.0.0.1:5561, or a URL, such as \
                    https://control.example:5561";
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&url).map_err(|error| format!("{expected} ({error})"))?;
    let is_valid = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.username().is_empty()
        && (text.contains("://") || url.port().is_some());
    if is_valid {
        Ok(url)
    } else {
        Err(expected.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_ports_are_addresses_or_urls() {
        for (text, url) in [
            ("127.0.0.1:5561", "http://127.0.0.1:5561/"),
            ("localhost:5562", "http://localhost:5562/"),
            ("[::1]:5561", "http://[::1]:5561/"),
            ("http://127.0.0.1:5561/", "http://127.0.0.1:5561/"),
            ("https://control.example", "https://control.example/"),
        ] {
            let parsed = parse_url(text).map(String::from);
            assert_eq!(parsed, Ok(url.to_owned()), "{text}");
        }
        for invalid in [
            "",
            "5561",
            "localhost",
            "ftp://localhost:5561",
            "http://localhost:5561/publish/",
            "http://a@localhost:5561",
            "localhost:99999",
        ] {
            assert!(parse_url(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("a/b ü?#-._~"), "a%2Fb%20%C3%BC%3F%23-._~");
    }
}
