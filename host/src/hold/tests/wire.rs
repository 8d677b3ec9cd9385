//! Holds over real connections, whose clients disconnect or do not read.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    net::{
        draining::Draining,
        listener::{Admission, Listener},
    },
    shutdown::Shutdown,
};

impl TestHost {
    /// Connects a client, which sends a request.
    async fn connect(&self) -> TcpStream {
        let address: SocketAddr = ([127, 0, 0, 1], 0).into();
        let shutdown = Shutdown::default();
        let listener = Listener::bind(address, "--listen", &shutdown).await;
        let listener = listener.expect("a port");
        let address = listener.address();
        let services = self.services.clone();
        let handler = Arc::new(move |request: Request<hyper::body::Incoming>, _| {
            let services = services.clone();
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move { proxy::forward(&services, request, None).await }
        });
        let draining = Draining::at_once(self.drain.clone());
        tokio::spawn(listener.serve(handler, Admission::up_to(100), draining));
        let mut client = TcpStream::connect(address).await.expect("connects");
        let request = b"GET /room/ HTTP/1.1\r\nhost: example.com\r\n\r\n";
        client.write_all(request).await.expect("writes");
        client
    }

    /// Waits until all holds have been dropped.
    async fn wait_for_no_holds(&self) {
        let no_holds = async {
            while !self.has_no_holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), no_holds)
            .await
            .expect("no holds in time");
    }
}

/// Reads up to and including `end`.
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
        .expect("the end in time");
    String::from_utf8(read).expect("text")
}

#[tokio::test]
async fn stream_is_chunked_and_dropped_with_its_client() {
    let mut host = TestHost::new(Limits::default());
    let mut client = host.connect().await;
    host.backend_request()
        .await
        .respond(&[HOLD_STREAM, CHANNEL, ("content-length", "5")], "hello");
    let head = read_to(&mut client, "5\r\nhello\r\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    host.publish(stream_item("news")).await;
    assert_eq!(read_to(&mut client, "\r\nnews\r\n").await, "4\r\nnews\r\n");
    assert!(!host.has_no_holds());
    drop(client);
    host.wait_for_no_holds().await;
}

#[tokio::test]
async fn held_response_is_dropped_with_its_client() {
    let mut host = TestHost::new(Limits::default());
    let client = host.connect().await;
    host.backend_request()
        .await
        .respond(&[HOLD_RESPONSE, CHANNEL], "default");
    host.wait_for_subscriptions(1).await;
    drop(client);
    host.wait_for_no_holds().await;
}

#[tokio::test]
async fn connection_of_a_client_that_does_not_read_is_closed() {
    let mut host = TestHost::new(Limits::default());
    let mut client = host.connect().await;
    host.backend_request()
        .await
        .respond(&[HOLD_STREAM, CHANNEL], "hello");
    read_to(&mut client, "hello\r\n").await;
    let large = "x".repeat(256 * 1024);
    // The socket buffers take some of it, and the inbox up to its limit.
    let mut published = 0;
    while !host.has_no_holds() && published < 256 {
        host.publish(Item::stream("c", large.clone())).await;
        tokio::task::yield_now().await;
        published += 1;
    }
    host.wait_for_no_holds().await;
    let read = async {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.map(|_| all)
    };
    let read = timeout(Duration::from_secs(30), read)
        .await
        .expect("a closed connection");
    // The body must not look complete.
    assert!(read.map_or(true, |all| !all.ends_with(b"0\r\n\r\n")));
}
