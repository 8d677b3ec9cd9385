//! A TCP proxy whose connections can stop forwarding without being closed.

use std::{future::pending, net::SocketAddr};

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A running proxy. It stops on drop, and its connections are closed.
pub struct StallingProxy {
    /// Its address.
    pub address: SocketAddr,
    stalls: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl StallingProxy {
    /// Starts a proxy in front of a server, on a free port.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stalls = watch::Sender::new(());
        let task = tokio::spawn(accept(listener, server, stalls.clone()));
        Ok(Self {
            address,
            stalls,
            task,
        })
    }

    /// Makes the connections that are open forward nothing any more. Later ones work.
    pub fn stall(&self) {
        self.stalls.send_replace(());
    }
}

impl Drop for StallingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, stalls: watch::Sender<()>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(forward(client, server, stalls.subscribe()));
    }
}

/// Forwards until the next stall, and then keeps both connections open.
async fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    mut stalls: watch::Receiver<()>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut server) => copied.map(|_| ()),
        stalled = stalls.changed() => match stalled {
            Ok(()) => pending().await,
            // The proxy was dropped.
            Err(_) => Ok(()),
        },
    }
}
