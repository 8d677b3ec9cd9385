//! A TCP proxy in front of a Redis server, which fails on demand.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A running proxy.
pub struct Proxy {
    /// Its address.
    pub address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone)]
struct State {
    /// Where new connections lead; `None` to close them at once.
    server: Option<SocketAddr>,
    /// How often connections were stalled.
    stalls: usize,
    /// How often connections were closed.
    closes: usize,
}

impl Proxy {
    /// Starts a proxy in front of a server.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, receiver) = watch::channel(State {
            server: Some(server),
            stalls: 0,
            closes: 0,
        });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, receiver.clone()));
            }
        });
        Ok(Self { address, state })
    }

    /// Returns the URL of the bus behind the proxy.
    pub fn bus(&self) -> String {
        format!("redis://{}/1", self.address)
    }

    /// Lets new connections lead to another server. Open ones stay open.
    pub fn switch_to(&self, server: SocketAddr) {
        self.state.send_modify(|state| state.server = Some(server));
    }

    /// Makes open connections forward nothing any more. They are not closed.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalls += 1);
    }

    /// Closes open and new connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.server = None;
            state.closes += 1;
        });
    }
}

async fn forward(mut client: TcpStream, state: watch::Receiver<State>) -> Result<()> {
    let (mut stalled, mut closed) = (state.clone(), state.clone());
    let start = state.borrow().clone();
    let Some(server) = start.server else {
        return Ok(());
    };
    let mut server = TcpStream::connect(server).await?;
    let stalled = async {
        drop(stalled.wait_for(|it| it.stalls > start.stalls).await);
    };
    let closed = async {
        drop(closed.wait_for(|it| it.closes > start.closes).await);
    };
    let forwarded = async {
        tokio::select! {
            biased;
            () = stalled => std::future::pending().await,
            copied = copy_bidirectional(&mut client, &mut server) => copied.map(|_| ()),
        }
    };
    tokio::select! {
        biased;
        () = closed => {}
        forwarded = forwarded => forwarded?,
    }
    Ok(())
}
