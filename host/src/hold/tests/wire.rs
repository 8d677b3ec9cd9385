//! Holds over real connections: what becomes of clients that leave, or do not read.

use crate::proxy;
use http::Request;
use prometheus_client::metrics::gauge::Gauge;
use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::net::listener::Listener;

impl Stage {
    /// A client on a connection of its own, that has sent a request.
    async fn connected(&self) -> TcpStream {
        let address: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(address, "--listen").await.expect("a port");
        let address = listener.address();
        let services = self.services.clone();
        let handler = Arc::new(move |request: Request<hyper::body::Incoming>, _| {
            let services = services.clone();
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move { proxy::forward(&services, request).await }
        });
        tokio::spawn(listener.serve(handler, Gauge::default(), self.stop.clone()));
        let mut client = TcpStream::connect(address).await.expect("connects");
        let request = b"GET /room/ HTTP/1.1\r\nhost: example.com\r\n\r\n";
        client.write_all(request).await.expect("writes");
        client
    }

    /// Waits until nothing is left.
    async fn emptied(&self) {
        let emptied = async {
            while !self.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), emptied)
            .await
            .expect("nothing is left");
    }
}

/// Reads until `end` has come.
async fn read_to(client: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            let byte = client.read_u8().await.expect("reads");
            read.push(byte);
        }
    };
    timeout(Duration::from_secs(30), reading)
        .await
        .expect("what is waited for comes");
    String::from_utf8(read).expect("text")
}

#[tokio::test]
async fn a_stream_is_chunked_and_ends_with_its_client() {
    let mut stage = Stage::new(Limits::default());
    let mut client = stage.connected().await;
    stage
        .asked()
        .await
        .answer(&[STREAM, CHANNEL, ("content-length", "5")], "hello");
    let head = read_to(&mut client, "5\r\nhello\r\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    stage.publish(stream("news")).await;
    assert_eq!(read_to(&mut client, "\r\nnews\r\n").await, "4\r\nnews\r\n");
    assert!(!stage.is_empty());
    drop(client);
    stage.emptied().await;
}

#[tokio::test]
async fn a_held_response_ends_with_its_client() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.connected().await;
    stage.asked().await.answer(&[RESPONSE, CHANNEL], "own");
    stage.subscribed(1).await;
    drop(client);
    stage.emptied().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let mut stage = Stage::new(Limits::default());
    let mut client = stage.connected().await;
    stage.asked().await.answer(&[STREAM, CHANNEL], "hello");
    read_to(&mut client, "hello\r\n").await;
    let large = "x".repeat(256 * 1024);
    // The system's buffers take some of it, and the inbox its limit.
    let mut published = 0;
    while !stage.is_empty() && published < 256 {
        stage.publish(Item::stream("c", large.clone())).await;
        tokio::task::yield_now().await;
        published += 1;
    }
    stage.emptied().await;
    let read = async {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.map(|_| all)
    };
    let read = timeout(Duration::from_secs(30), read)
        .await
        .expect("an end");
    // Not an end that looks like one.
    assert!(read.map_or(true, |all| !all.ends_with(b"0\r\n\r\n")));
}
