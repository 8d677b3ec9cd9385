//! The [PROXY protocol](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt), versions 1 and
//! 2: a header with which a TCP proxy names its client at the start of a connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The length of the fixed part of a header of version 2.
const V2_PREFIX_BYTES: usize = 16;

/// The longest rest of a header of version 2. Proxies send a few hundred bytes at most.
const MAX_V2_BYTES: usize = 4096;

/// The longest header of version 1, with the end of the line.
const MAX_V1_BYTES: usize = 107;

/// The client that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProxiedClient {
    /// The address. `None` if the proxy itself is the client, such as for a health check.
    pub(super) address: Option<SocketAddr>,
    /// The client has used TLS, which the proxy has terminated.
    pub(super) is_secure: bool,
}

/// Reads the header at the start of a connection, and nothing after it.
///
/// # Errors
/// Fails if the connection does not start with a valid header.
pub(super) async fn read_header<S>(stream: &mut S) -> io::Result<ProxiedClient>
where
    S: AsyncRead + Unpin,
{
    // No header is shorter than the signature of version 2.
    let mut header = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut header).await?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let signature = header.len();
        header.resize(V2_PREFIX_BYTES, 0);
        stream.read_exact(&mut header[signature..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MAX_V2_BYTES {
            return Err(invalid(format!("{length} bytes are too long")));
        }
        header.resize(V2_PREFIX_BYTES + length, 0);
        stream.read_exact(&mut header[V2_PREFIX_BYTES..]).await?;
    } else if header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        // Read by bytes, since what follows belongs to another protocol.
        while !header.ends_with(b"\n") {
            if header.len() == MAX_V1_BYTES {
                return Err(invalid("the line is too long"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(invalid("the connection does not start with one"));
    }
    match HeaderResult::parse(&header) {
        HeaderResult::V1(Ok(header)) => Ok(ProxiedClient {
            address: match header.addresses {
                v1::Addresses::Tcp4(it) => Some((it.source_address, it.source_port).into()),
                v1::Addresses::Tcp6(it) => Some((it.source_address, it.source_port).into()),
                v1::Addresses::Unknown => None,
            },
            is_secure: false,
        }),
        HeaderResult::V2(Ok(header)) => client_of(&header),
        HeaderResult::V1(Err(error)) => Err(invalid(error)),
        HeaderResult::V2(Err(error)) => Err(invalid(error)),
    }
}

fn client_of(header: &v2::Header<'_>) -> io::Result<ProxiedClient> {
    let address = match (header.command, header.addresses) {
        (v2::Command::Local, _) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(it)) => {
            Some((IpAddr::from(it.source_address), it.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(it)) => {
            Some((IpAddr::from(it.source_address), it.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => None,
    };
    let mut is_secure = false;
    for field in header.tlvs() {
        let field = field.map_err(invalid)?;
        // The first byte is a set of flags, of which bit 0 is PP2_CLIENT_SSL.
        is_secure |= field.kind == v2::Type::SSL as u8
            && field.value.first().is_some_and(|flags| flags & 1 == 1);
    }
    Ok(ProxiedClient { address, is_secure })
}

fn invalid(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("invalid header of the PROXY protocol: {problem}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the client that a header names, and the input after the header.
    async fn read(input: &[u8]) -> io::Result<(ProxiedClient, Vec<u8>)> {
        let mut input = input;
        let client = read_header(&mut input).await?;
        Ok((client, input.to_vec()))
    }

    /// Returns a header of version 2 with this command, family and protocol, and content.
    fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
        header.extend(content);
        header
    }

    const IPV4: &[u8] = &[203, 0, 113, 9, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    #[tokio::test]
    async fn headers_name_the_client() {
        let client = |address: &str| ProxiedClient {
            address: Some(address.parse().expect("an address")),
            is_secure: false,
        };
        let none = ProxiedClient {
            address: None,
            is_secure: false,
        };
        let mut ipv6 = "2001:db8::9"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .to_vec();
        ipv6.extend([0; 16]);
        ipv6.extend([0x1f, 0x90, 0, 80]);
        let secure = [IPV4, &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
        let plain = [IPV4, &[0x20, 0, 5, 0, 0, 0, 0, 0], &[0x04, 0, 2, 1, 2]].concat();
        for (header, expected) in [
            (v2(1, 0x11, IPV4), client("203.0.113.9:8080")),
            (v2(1, 0x21, &ipv6), client("[2001:db8::9]:8080")),
            (
                v2(1, 0x11, &secure),
                ProxiedClient {
                    is_secure: true,
                    ..client("203.0.113.9:8080")
                },
            ),
            (v2(1, 0x11, &plain), client("203.0.113.9:8080")),
            (v2(0, 0, &[]), none),
            (v2(0, 0x11, IPV4), none),
            (v2(1, 0, &[]), none),
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 8080 80\r\n".to_vec(),
                client("203.0.113.9:8080"),
            ),
            (
                b"PROXY TCP6 2001:db8::9 ::1 8080 80\r\n".to_vec(),
                client("[2001:db8::9]:8080"),
            ),
            (b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(), none),
            (b"PROXY UNKNOWN\r\n".to_vec(), none),
        ] {
            let input = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let (client, rest) = read(&input).await.expect("a valid header");
            assert_eq!(client, expected, "{header:?}");
            assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{header:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        for (input, problem) in [
            (b"".to_vec(), "early eof"),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
                "does not start",
            ),
            (v2(1, 0x11, IPV4)[..20].to_vec(), "early eof"),
            (v2(1, 0x11, &IPV4[..4]), "invalid header"),
            (v2(1, 0x11, &[0; 5000]), "5000 bytes"),
            (v2(2, 0x11, IPV4), "invalid header"),
            ([IPV4, &[0x20, 0, 50, 1]].concat(), "does not start"),
            (
                v2(1, 0x11, &[IPV4, &[0x20, 0, 50, 1]].concat()),
                "invalid header",
            ),
            (b"PROXY TCP4 a b c d e f g\r\n".to_vec(), "invalid header"),
            ([&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(), "too long"),
        ] {
            let error = read(&input).await.expect_err("an invalid header");
            assert!(error.to_string().contains(problem), "{input:?}: {error}");
        }
    }
}
