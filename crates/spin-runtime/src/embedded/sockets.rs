//! The raw TCP and UDP sockets that a component may use: those for addresses in
//! `allowed_outbound_hosts`, with the scheme `tcp` or `udp`.

use std::{net::SocketAddr, sync::Arc};

use wasmtime_wasi::{WasiCtxBuilder, sockets::SocketAddrUse};

use super::component::Component;

/// Allows a component's sockets. The interfaces are `wasi:sockets` of WASI 0.2 and 0.3.
pub(crate) fn allow(wasi: &mut WasiCtxBuilder, component: Arc<Component>) {
    wasi.allow_tcp(true).allow_udp(true);
    wasi.socket_addr_check(move |address, usage| {
        let is_allowed = check(&component, address, usage);
        Box::pin(async move { is_allowed })
    });
}

fn check(component: &Component, address: SocketAddr, usage: SocketAddrUse) -> bool {
    // Before it connects or sends, a socket is bound to an address that the system chooses.
    let is_any = address.ip().is_unspecified() && address.port() == 0;
    let scheme = match usage {
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind if is_any => return true,
        // Components receive requests, but no connections.
        SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => {
            return false;
        }
        SocketAddrUse::TcpConnect => "tcp",
        SocketAddrUse::UdpBind | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => "udp",
    };
    let host = address.ip().to_string();
    let is_allowed = component
        .allowed_hosts
        .allows(scheme, &host, Some(address.port()));
    if !is_allowed {
        component.log.socket_denied.log(|| {
            tracing::error!(
                component = %component.id,
                missing_entry = %format_args!("{scheme}://{address}"),
                "socket denied: address not in allowed_outbound_hosts"
            );
        });
    }
    is_allowed
}
