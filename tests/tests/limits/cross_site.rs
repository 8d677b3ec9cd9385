//! Pages of other sites: which of them may hold streams and use the control port.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use grip::{Key, signature::sign};
use tempfile::TempDir;
use tests::{Response, Server, burger_without_timer, read_response, request};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{burger, wait_for_dropped};

const ORIGIN: &str = "https://app.example";

/// Returns Socket Burger, whose streams pages of these origins may hold.
fn burger_for(origins: &str) -> Result<TempDir> {
    let allowed = format!("allowed-origins = {origins}");
    burger("allowed-origins = [\"same-origin\"]", &allowed)
}

/// Requests a stream from a page, and returns the head of the response.
async fn stream(host: &Server, origin: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(host.address).await?;
    let bytes = format!(
        "GET /api/orders/stream HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\n\r\n",
        host.address
    );
    stream.write_all(bytes.as_bytes()).await?;
    read_response(&mut stream, false).await
}

fn has_header(response: &Response, line: &str) -> bool {
    response
        .head
        .lines()
        .any(|header| header.eq_ignore_ascii_case(line))
}

fn has_cors(response: &Response) -> bool {
    response
        .head
        .to_ascii_lowercase()
        .contains("access-control-")
}

#[tokio::test]
async fn streams_are_for_allowed_origins() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let own = stream(&host, &format!("http://{}", host.address)).await?;
    ensure!(own.status == 200 && !has_cors(&own), "{own:?}");
    for origin in [ORIGIN, "null"] {
        let refused = stream(&host, origin).await?;
        ensure!(refused.status == 403 && !has_cors(&refused), "{refused:?}");
    }
    wait_for_dropped(&host, "origin", 2).await?;
    // Other responses are the component's concern.
    let bytes = format!("GET /api/orders HTTP/1.1\r\nHost: a\r\nOrigin: {ORIGIN}\r\n\r\n");
    let orders = request(host.address, &bytes).await?;
    ensure!(orders.status == 200 && !has_cors(&orders), "{orders:?}");
    Ok(())
}

#[tokio::test]
async fn allowed_origins_may_read_streams() -> Result<()> {
    let folder = burger_for(&format!("[{ORIGIN:?}]"))?;
    let host = Server::start(folder.path(), &[])?;
    let allowed = stream(&host, ORIGIN).await?;
    ensure!(allowed.status == 200, "{allowed:?}");
    for line in [
        "access-control-allow-origin: https://app.example",
        "access-control-allow-credentials: true",
    ] {
        ensure!(has_header(&allowed, line), "{line}: {allowed:?}");
    }
    ensure!(stream(&host, "https://app.example.evil").await?.status == 403);

    let folder = burger_for("[\"*\"]")?;
    let host = Server::start(folder.path(), &[])?;
    let any = stream(&host, "https://evil.example").await?;
    ensure!(
        has_header(&any, "access-control-allow-origin: *"),
        "{any:?}"
    );
    ensure!(!any.head.contains("credentials"), "{any:?}");
    Ok(())
}

#[tokio::test]
async fn pages_of_configured_origins_may_publish() -> Result<()> {
    let folder = burger_without_timer();
    let options = ["--grip-key", "secret", "--control-origin", ORIGIN];
    let host = Server::start(folder.path(), &options)?;
    let hour = Duration::from_secs(3600);
    let token = sign(&Key::parse("secret")?, "a", SystemTime::now(), hour);
    let preflight = async |origin: &str, target: &str, method: &str| {
        let bytes = format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: {method}\r\n\
             Access-Control-Request-Headers: authorization,content-type\r\n\r\n"
        );
        request(host.control, &bytes).await
    };
    for (target, method) in [("/publish/", "POST"), ("/users/a/sessions", "DELETE")] {
        let allowed = preflight(ORIGIN, target, method).await?;
        ensure!(allowed.status == 204, "{allowed:?}");
        ensure!(has_header(
            &allowed,
            &format!("access-control-allow-origin: {ORIGIN}")
        ));
        let head = allowed.head.to_ascii_lowercase();
        let methods = head.split("access-control-allow-methods: ").nth(1);
        let methods = methods
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default();
        ensure!(methods.contains(&method.to_ascii_lowercase()), "{head}");
        ensure!(head.contains("authorization"), "{head}");
    }
    for (origin, target) in [
        ("https://evil.example", "/publish/"),
        (ORIGIN, "/metrics"),
        (ORIGIN, "/healthz"),
    ] {
        let refused = preflight(origin, target, "POST").await?;
        ensure!(refused.status == 405 && !has_cors(&refused), "{refused:?}");
    }
    let publish = async |origin: &str, token: &str| {
        let headers = format!("Origin: {origin}\r\n{token}");
        host.publish(&headers, "{\"items\":[]}").await
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let published = publish(ORIGIN, &bearer).await?;
    ensure!(
        published.status == 200 && has_cors(&published),
        "{published:?}"
    );
    let refused = publish(ORIGIN, "").await?;
    ensure!(refused.status == 401 && has_cors(&refused), "{refused:?}");
    let other = publish("https://evil.example", &bearer).await?;
    ensure!(!has_cors(&other), "{other:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_for_pages_by_default() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let headers = format!("Origin: {ORIGIN}\r\n");
    let refused = host.publish(&headers, "{\"items\":[]}").await?;
    ensure!(refused.status == 401 && !has_cors(&refused), "{refused:?}");
    let bytes = format!(
        "OPTIONS /publish/ HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n\
         Access-Control-Request-Method: POST\r\n\r\n"
    );
    let preflight = request(host.control, &bytes).await?;
    ensure!(
        preflight.status == 405 && !has_cors(&preflight),
        "{preflight:?}"
    );
    Ok(())
}

/// What a client sends must not return to it in a response that the host makes: a page could
/// otherwise make the host send it to another page.
#[tokio::test]
async fn refusals_repeat_nothing_of_the_request() -> Result<()> {
    const MARK: &str = "mark0815";
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let headers = format!(
        "Origin: http://{MARK}.example\r\nCookie: {MARK}\r\nX-{MARK}: {MARK}\r\n\
         Referer: http://{MARK}/\r\nAuthorization: Bearer {MARK}\r\nUser-Agent: {MARK}\r\n"
    );
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (address, line, more) in [
        (
            host.address,
            format!("GET /internal/orders?{MARK} HTTP/1.1"),
            "",
        ),
        (host.address, format!("GET /{MARK} HTTP/1.1"), ""),
        (host.address, format!("GET /../{MARK} HTTP/1.1"), ""),
        (
            host.address,
            format!("GET /api/ws?{MARK} HTTP/1.1"),
            upgrade,
        ),
        (
            host.address,
            format!("GET /api/orders/stream?{MARK} HTTP/1.1"),
            "",
        ),
        (
            host.address,
            format!("POST /{MARK} HTTP/1.1"),
            "Content-Length: 99999999999\r\n",
        ),
        (host.control, format!("GET /{MARK} HTTP/1.1"), ""),
        (host.control, format!("POST /publish/?{MARK} HTTP/1.1"), ""),
        (host.control, format!("{MARK} /publish/ HTTP/1.1"), ""),
    ] {
        let bytes = format!("{line}\r\nHost: localhost\r\n{headers}{more}\r\n");
        let response = request(address, &bytes).await?;
        ensure!(response.status >= 400, "{line}: {response:?}");
        let text = format!("{}{}", response.head, response.body).to_ascii_lowercase();
        ensure!(!text.contains(MARK), "{line}: {response:?}");
    }
    Ok(())
}
