//! TCP and UDP sockets of components.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use tests::wasm;

use crate::fixture::{Fixture, application, logged};

/// Servers that send back what they receive, over TCP and UDP at the same address.
struct Echo {
    address: SocketAddrV4,
    _tasks: JoinSet<io::Result<()>>,
}

impl Echo {
    async fn start() -> Self {
        // The port that is free for one protocol may be taken for the other.
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
                unreachable!("bound to an IPv4 address");
            };
            if let Ok(socket) = UdpSocket::bind(address).await {
                let mut tasks = JoinSet::new();
                tasks.spawn(echo_streams(listener));
                tasks.spawn(echo_datagrams(socket));
                return Self {
                    address,
                    _tasks: tasks,
                };
            }
        }
    }
}

async fn echo_streams(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await?;
    }
}

async fn echo_datagrams(socket: UdpSocket) -> io::Result<()> {
    let mut datagram = [0; 100];
    loop {
        let (length, client) = socket.recv_from(&mut datagram).await?;
        socket.send_to(&datagram[..length], client).await?;
    }
}

/// Loads a component of WASI 0.3 and one of WASI 0.2 with these `allowed_outbound_hosts`.
fn allowing(hosts: &str, port: u16) -> Fixture {
    let (probe, probe02) = (wasm("probe"), wasm("probe02"));
    Fixture::of(&application(&format!(
        "
        variables.port = {{ default = \"{port}\" }}
        trigger.http = [
            {{ route = \"/probe/...\", component = \"probe\" }},
            {{ route = \"/probe02/...\", component = \"probe02\" }},
        ]
        [component.probe]
        source = {probe:?}
        allowed_outbound_hosts = {hosts}
        [component.probe02]
        source = {probe02:?}
        allowed_outbound_hosts = {hosts}
        "
    )))
}

/// Connects with every kind of socket. Returns the answers of TCP and of UDP, which are the same for
/// both versions of WASI.
async fn connect(app: &Fixture, address: SocketAddrV4) -> [String; 2] {
    let tcp = app.ok(&format!("/probe/tcp?to={address}")).await;
    let udp = app.ok(&format!("/probe/udp?to={address}")).await;
    let tcp02 = app.ok(&format!("/probe02/tcp?{address}")).await;
    for kind in ["udp", "connected-udp"] {
        let udp02 = app.ok(&format!("/probe02/{kind}?{address}")).await;
        assert_eq!(is_denied(&udp02), is_denied(&udp), "{kind}: {udp02} {udp}");
    }
    assert_eq!(is_denied(&tcp02), is_denied(&tcp), "{tcp02} {tcp}");
    assert!(is_denied(&tcp02) || tcp02 == "from probe02", "{tcp02}");
    [tcp, udp]
}

fn is_denied(answer: &str) -> bool {
    ["Err(ErrorCode::AccessDenied)", "PermissionDenied"].contains(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_reach_the_addresses_in_allowed_outbound_hosts() {
    let echo = Echo::start().await;
    let answer = "Ok(\"from probe\")";
    let port = echo.address.port();
    for (hosts, tcp, udp) in [
        (r#"["tcp://127.0.0.1:{{ port }}"]"#, true, false),
        (r#"["udp://127.0.0.1:{{ port }}"]"#, false, true),
        (r#"["*://127.0.0.1:{{ port }}"]"#, true, true),
        (r#"["tcp://127.0.0.0/30:{{ port }}"]"#, true, false),
        (r#"["udp://127.0.0.1:1..65535"]"#, false, true),
        (r#"["tcp://*:*"]"#, true, false),
        (r#"["*://*:*"]"#, true, true),
        (r#"["tcp://127.0.0.2:{{ port }}"]"#, false, false),
        (r#"["tcp://127.0.0.8/30:*", "udp://[::1]:*"]"#, false, false),
        (r#"["*://127.0.0.1:1"]"#, false, false),
        // The address counts, not the name that was resolved to it.
        (r#"["*://localhost:*"]"#, false, false),
        (r#"["http://127.0.0.1:{{ port }}"]"#, false, false),
        ("[]", false, false),
    ] {
        let app = allowing(hosts, port);
        let answers = connect(&app, echo.address).await;
        for (found, is_allowed) in answers.iter().zip([tcp, udp]) {
            let is_expected = if is_allowed {
                found == answer
            } else {
                is_denied(found)
            };
            assert!(is_expected, "{hosts}: {answers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn components_accept_no_connections() {
    let app = allowing(r#"["*://*:*"]"#, 1);
    for address in ["127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:40123"] {
        let answer = app.ok(&format!("/probe/listen?to={address}")).await;
        assert!(is_denied(&answer), "{address}: {answer}");
        let answer = app.ok(&format!("/probe02/listen?{address}")).await;
        assert!(is_denied(&answer), "{address}: {answer}");
    }
}

#[test]
fn a_denied_socket_logs_the_missing_entry() {
    let log = logged(async {
        let app = allowing("[]", 1);
        app.ok("/probe/tcp?to=192.0.2.1:25").await;
    });
    let message = "socket denied: address not in allowed_outbound_hosts";
    let entry = "missing_entry=tcp://192.0.2.1:25";
    assert!(
        log.contains(message) && log.contains(entry) && log.contains("component=probe"),
        "{log}"
    );
}
