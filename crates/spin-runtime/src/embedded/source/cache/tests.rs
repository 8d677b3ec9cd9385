//! Tests of downloads and their cache, with an HTTP server on this machine.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use super::*;

/// An HTTP server that answers every request in the same way.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// Answers with these bytes and closes the connection.
    fn answering(response: &str) -> Self {
        let response = response.to_owned();
        Self::new(move |mut stream| {
            let _ = stream.write_all(response.as_bytes());
        })
    }

    fn serving(body: &str) -> Self {
        let length = body.len();
        Self::answering(&format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
    }

    fn new(answer: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, SeqCst);
                let lines = BufReader::new(&stream).lines();
                let head = lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty());
                head.for_each(drop);
                answer(stream);
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/a.wasm", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn cache(folder: &tempfile::TempDir) -> Cache {
    Cache::new(Some(folder.path().to_owned()), &Limits::DEFAULT)
}

#[track_caller]
fn assert_error(result: anyhow::Result<Vec<u8>>, fragments: &[&str]) {
    let error = format!("{:#}", result.unwrap_err());
    for fragment in fragments {
        assert!(error.contains(fragment), "{fragment:?} in {error}");
    }
}

#[test]
fn a_file_is_downloaded_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::serving("wasm");
    let digest = digest_of(b"wasm");
    for _ in 0..2 {
        assert_eq!(
            cache(&folder).load(&server.url(), &digest).unwrap(),
            b"wasm"
        );
    }
    assert_eq!(server.requests(), 1);
    // Another URL of the same file needs no download.
    assert!(cache(&folder).load("http://127.0.0.1:1/", &digest).is_ok());
    let file = folder.path().join("registry/wasm").join(&digest);
    fs::write(&file, "damaged").unwrap();
    assert_eq!(
        cache(&folder).load(&server.url(), &digest).unwrap(),
        b"wasm"
    );
    assert_eq!(server.requests(), 2);
    assert_eq!(fs::read(&file).unwrap(), b"wasm");
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn another_digest_is_an_error_with_both() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::serving("other");
    let expected = digest_of(b"wasm");
    assert_error(
        cache(&folder).load(&server.url(), &expected),
        &[&server.url(), &expected, &digest_of(b"other"), "`digest`"],
    );
    // What is wrong is not kept.
    assert!(!folder.path().join("registry").exists());
}

#[test]
fn redirects_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let target = Server::serving("wasm");
    let location = target.url();
    let server = Server::answering(&format!(
        "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    ));
    let digest = digest_of(b"wasm");
    assert_eq!(
        cache(&folder).load(&server.url(), &digest).unwrap(),
        b"wasm"
    );
    let circle = Server::answering(
        "HTTP/1.1 301 Moved Permanently\r\nlocation: /b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    assert_error(
        cache(&folder).load(&circle.url(), &digest_of(b"x")),
        &["too many redirects: more than 10"],
    );
    let file = Server::answering(
        "HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    assert_error(
        cache(&folder).load(&file.url(), &digest_of(b"x")),
        &["redirect to file:///etc/passwd is neither http nor https"],
    );
}

#[test]
fn failed_downloads_are_errors_with_their_reason() {
    let folder = tempfile::tempdir().unwrap();
    let digest = digest_of(b"wasm");
    let absent = Server::answering(
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    assert_error(
        cache(&folder).load(&absent.url(), &digest),
        &["cannot download", &absent.url(), "404 Not Found"],
    );
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_error(
        cache(&folder).load(&format!("http://{closed}/"), &digest),
        &["server unreachable", "refused"],
    );
    let cut = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwasm");
    assert_error(
        cache(&folder).load(&cut.url(), &digest),
        &["connection lost"],
    );
}

#[test]
fn downloads_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        download_bytes: 4,
        download_timeout: Duration::from_millis(200),
        ..Limits::DEFAULT
    };
    let cache = Cache::new(Some(folder.path().to_owned()), &limits);
    assert!(
        cache
            .load(&Server::serving("wasm").url(), &digest_of(b"wasm"))
            .is_ok()
    );
    let too_large = ["larger than 4 bytes"];
    let digest = digest_of(b"larger");
    assert_error(
        cache.load(&Server::serving("larger").url(), &digest),
        &too_large,
    );
    // Without a length, the size only shows while reading.
    let unknown = Server::answering("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nlarger");
    assert_error(cache.load(&unknown.url(), &digest), &too_large);
    let silent = Server::new(|stream| {
        std::thread::sleep(Duration::from_secs(3600));
        drop(stream);
    });
    let start = Instant::now();
    assert_error(
        cache.load(&silent.url(), &digest),
        &["timed out after 200ms"],
    );
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn an_unusable_folder_costs_a_download_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let server = Server::serving("wasm");
    let cache = Cache::new(Some(file.join("below")), &Limits::DEFAULT);
    for requests in 1..=2 {
        let contents = cache.load(&server.url(), &digest_of(b"wasm")).unwrap();
        assert_eq!(contents, b"wasm");
        assert_eq!(server.requests(), requests);
    }
}

#[test]
fn errors_omit_the_query_of_the_url() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::serving("other");
    let absent = Server::answering(
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    for server in [server, absent] {
        let url = server.url();
        let signed = format!("{url}?token=s3cret");
        let error = cache(&folder).load(&signed, &digest_of(b"wasm"));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(&url) && !error.contains("s3cret"), "{error}");
    }
}
