//! The application of the tests' fixtures, loaded into this process.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result, anyhow, ensure};
use http::Request;
use http_body_util::BodyExt as _;
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, Manifest, ManifestUse, Variables,
    backend::{Backend as _, Body, Caller, empty, full},
    websocket::{
        ChannelError, ChannelMessage, ConnectionLost, Frame, FramesCall, Pending, ReceivedFrame,
        WebSockets,
    },
};
use tests::wasm;

use crate::Call;

/// The length of the bodies of `echo` and of the messages, in bytes.
const BODY_BYTES: usize = 1024;

/// The header fields of a request with WebSocket events that browsers and the host add.
const HEADERS: [(&str, &str); 10] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-US,en;q=0.9"),
    ("origin", "http://localhost:3000"),
    ("connection-id", "6b3f1c2e-5f0d-4c3b-9d57-0c1a6f0e7a11"),
    ("content-type", "application/websocket-events"),
    ("accept", "application/websocket-events"),
    ("meta-user", "1b2c3d"),
    ("x-forwarded-for", "192.0.2.7"),
    (
        "grip-sig",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJob3N0IiwiZXhwIjoxNzAwMDAwMDAwfQ.\
         c2lnbmF0dXJlIG9mIHRoaXMgdG9rZW4",
    ),
];

/// Counts the frames that components send.
#[derive(Default)]
struct Sent(AtomicU64);

impl WebSockets for Sent {
    fn send(
        &self,
        _: String,
        _: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>> {
        self.0.fetch_add(1, Relaxed);
        let sent: Pending<'static, _> = Box::pin(std::future::ready(Ok(())));
        Box::pin(std::future::ready(sent))
    }

    fn subscribe(&self, _: String, _: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: String, _: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn publish(&self, _: String, _: ChannelMessage) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The loaded application. Its state is deleted when this is dropped.
pub struct Application {
    embedded: Embedded,
    sent: Arc<Sent>,
    _state: tempfile::TempDir,
}

impl Application {
    /// Loads the components.
    ///
    /// # Errors
    /// Fails if one is not built.
    pub fn load() -> Result<Self> {
        let [probe, probe02, typed] = ["probe", "probe02", "typed"].map(wasm);
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"calls\"\n\
             trigger.http = [\n\
                 {{ route = \"/probe/...\", component = \"probe\" }},\n\
                 {{ route = \"/probe02/...\", component = \"probe02\" }},\n\
                 {{ route = \"/frame/...\", component = \"frame\" }},\n\
                 {{ route = \"/frame-reused/...\", component = \"frame-reused\" }},\n\
             ]\n\
             [component]\nprobe = {{ source = {probe:?} }}\nprobe02 = {{ source = {probe02:?} }}\n\
             frame = {{ source = {typed:?} }}\nframe-reused = {{ source = {typed:?} }}\n"
        );
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("spin.toml");
        let mut manifest = Manifest::parse(&text, base, ManifestUse::Embedded)?;
        if let Some(component) = manifest.components.get_mut("frame-reused") {
            component.reuses_websocket_instances = true;
        }
        let state = tempfile::tempdir().context("no folder for the state")?;
        let sent = Arc::new(Sent::default());
        let mut options = EmbeddedOptions::new(state.path());
        options.quiet = true;
        options.websockets = sent.clone();
        let variables = Variables::new(&manifest, &[], Default::default(), |_| None)?;
        let embedded = Embedded::new(options)?;
        embedded.replace(&manifest, &variables, &Changes::default(), || {})?;
        Ok(Self {
            embedded,
            sent,
            _state: state,
        })
    }

    /// Makes a call, and reads the response.
    ///
    /// # Errors
    /// Fails if the call fails.
    pub async fn call(&self, call: Call) -> Result<()> {
        let get = |path| (Request::get(path), empty());
        let post = |path, body| (Request::post(path), full(body));
        let (builder, body) = match call {
            Call::Get => get("/probe/"),
            Call::GetHeaders => get("/probe/"),
            Call::Echo => post("/probe/echo", vec![b'x'; BODY_BYTES]),
            Call::Get02 => get("/probe02/seen"),
            Call::Echo02 => post("/probe02/echo", vec![b'x'; BODY_BYTES]),
            Call::Message => post("/probe/websocket-echo", b"TEXT 5\r\nhello\r\n".to_vec()),
            Call::Frame => return self.call_frame("frame").await,
            Call::FrameReused => return self.call_frame("frame-reused").await,
        };
        let mut request = builder
            .header("host", "localhost:3000")
            .extension(Caller::Host);
        if matches!(call, Call::GetHeaders | Call::Message) {
            for (name, value) in HEADERS {
                request = request.header(name, value);
            }
        }
        self.send(request.body(body)?).await
    }

    async fn send(&self, request: Request<Body>) -> Result<()> {
        let response = self.embedded.call(request).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        let body = response.into_body().collect().await;
        body.map(drop).map_err(|error| anyhow!(error))
    }

    async fn call_frame(&self, component: &str) -> Result<()> {
        let sent = self.sent.0.load(Relaxed);
        let frame = ReceivedFrame {
            sequence_number: 0,
            frame: Frame::Text("hello".to_owned()),
        };
        let call = FramesCall {
            component: component.into(),
            token: "token".into(),
            frames: vec![frame],
            caller: Caller::Host,
            trace: Default::default(),
        };
        self.embedded.receive_frames(call).await?;
        ensure!(self.sent.0.load(Relaxed) == sent + 1, "no frame was sent");
        Ok(())
    }
}
