//! A component that handles typed frames, and what it sends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use spin_runtime::{
    backend::{self, Backend as _, BackendError, Body, Caller},
    websocket::{
        ChannelError, ChannelMessage, ConnectionLost, Frame, FramesCall, Pending, ReceivedFrame,
        WebSockets,
    },
};
use tests::wasm;

use crate::fixture::{Fixture, application};

/// Records what components send, and accepts the token `open` alone.
#[derive(Default)]
struct Recorder(Mutex<Vec<Frame>>);

impl WebSockets for Recorder {
    fn send(
        &self,
        token: String,
        frame: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>> {
        let is_open = token == "open";
        if is_open {
            self.0.lock().unwrap().push(frame);
        }
        let sent = is_open.then_some(()).ok_or(ConnectionLost);
        let sent: Pending<'static, _> = Box::pin(async move {
            // Not at once, so that the guest has to wait.
            tokio::time::sleep(Duration::from_millis(20)).await;
            sent
        });
        Box::pin(std::future::ready(sent))
    }

    fn subscribe(&self, _: String, _: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async { Err(ChannelError::TooManySubscriptions) })
    }

    fn unsubscribe(&self, _: String, _: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async { Ok(()) })
    }

    fn publish(&self, channel: String, _: ChannelMessage) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move { Err(ChannelError::Other(format!("no {channel}"))) })
    }
}

impl Recorder {
    fn take(&self) -> Vec<Frame> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn typed() -> spin_runtime::Manifest {
    application(&format!(
        "[[trigger.http]]\nroute = \"/typed/...\"\ncomponent = \"typed\"\n\
         [component.typed]\nsource = {:?}\nkey_value_stores = [\"default\"]\n",
        wasm("typed")
    ))
}

/// Starts the component with this many instances.
fn start(instances: usize) -> (Fixture, Arc<Recorder>) {
    start_with_timeout(instances, Duration::from_secs(60))
}

/// Starts the component with this many instances, and with this timeout of a call.
fn start_with_timeout(instances: usize, timeout: Duration) -> (Fixture, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let state = tempfile::tempdir().unwrap();
    let fixture = Fixture::at(&typed(), state, |options| {
        options.websockets = recorder.clone();
        options.limits.instances_per_component = instances;
        options.limits.request_timeout = timeout;
        options.limits.waiting_requests = 1;
    });
    (fixture, recorder)
}

fn call(token: &str, messages: &[&str]) -> FramesCall {
    let frames = (0..)
        .zip(messages)
        .map(|(sequence_number, text)| ReceivedFrame {
            sequence_number,
            frame: Frame::Text((*text).to_owned()),
        });
    FramesCall {
        component: "typed".into(),
        token: token.into(),
        frames: frames.collect(),
        caller: Caller::Host,
        trace: Default::default(),
    }
}

fn upgrade(path: &str) -> Request<Body> {
    let request = Request::get(path).header("host", "localhost");
    request.body(backend::empty()).unwrap()
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}

#[tokio::test]
async fn a_component_gets_upgrade_requests_and_frames() {
    let (fixture, recorder) = start(2);
    let app = fixture.app();
    assert_eq!(
        app.websocket_component("/typed/a").as_deref(),
        Some("typed")
    );
    assert_eq!(app.websocket_component("/other"), None);
    let opening = app.open_websocket("open".into(), upgrade("/typed/a?early=one&welcome=two"));
    let opening = opening.await.unwrap();
    assert_eq!(opening.response.status(), StatusCode::SWITCHING_PROTOCOLS);
    opening.call.await.unwrap();
    assert_eq!(recorder.take(), [text("one"), text("two")]);
    app.receive_frames(call("open", &["a", "b"])).await.unwrap();
    assert_eq!(recorder.take(), [text("a"), text("b")]);
}

#[tokio::test]
async fn a_refusal_has_its_status_and_body() {
    let (fixture, recorder) = start(1);
    let opening = fixture
        .app()
        .open_websocket("open".into(), upgrade("/typed/a?status=403"));
    let response = opening.await.unwrap().response;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "refused /typed/a?status=403");
    assert!(recorder.take().is_empty());
}

#[tokio::test]
async fn results_reach_the_component() {
    let (fixture, recorder) = start(1);
    let app = fixture.app();
    let messages = ["send open x", "send closed x", "future", "publish room x"];
    app.receive_frames(call("open", &messages)).await.unwrap();
    let sent: Vec<_> = ["x", "sent", "connection-lost", "one", "sent taken"]
        .map(text)
        .into();
    let published = text("Error::Other(\"no room\")");
    assert_eq!(recorder.take(), [sent, vec![published]].concat());
    app.receive_frames(call("open", &["join open room"]))
        .await
        .unwrap();
    assert_eq!(recorder.take(), [text("Err(Error::TooManySubscriptions)")]);
}

#[tokio::test]
async fn frames_wait_for_an_instance_and_handshakes_only_up_to_a_limit() {
    let (fixture, recorder) = start(1);
    let app = fixture.app();
    let (opening, waiting, openings) = tokio::join!(
        app.open_websocket("open".into(), upgrade("/typed/a?delay=300&status=403")),
        app.receive_frames(call("open", &["later"])),
        futures_util::future::join_all(
            (0..3).map(|_| app.open_websocket("open".into(), upgrade("/typed/a")))
        ),
    );
    opening.unwrap();
    waiting.unwrap();
    assert_eq!(recorder.take(), [text("later")]);
    let is_busy = |opening: &Result<_, _>| matches!(opening, Err(BackendError::Busy { .. }));
    assert_eq!(openings.iter().filter(|it| is_busy(it)).count(), 2);
}

#[tokio::test]
async fn a_call_ends_after_its_timeout() {
    let (fixture, recorder) = start_with_timeout(1, Duration::from_secs(2));
    let app = fixture.app();
    let called = app.receive_frames(call("open", &["spin"])).await;
    assert!(
        matches!(called, Err(BackendError::Deadline { .. })),
        "{called:?}"
    );
    // Its instance has made room.
    app.receive_frames(call("open", &["next"])).await.unwrap();
    assert_eq!(recorder.take(), [text("next")]);
}

#[tokio::test]
async fn without_websockets_frames_are_lost() {
    let fixture = Fixture::of(&typed());
    let app = fixture.app();
    app.receive_frames(call("open", &["send open x", "publish room x"]))
        .await
        .unwrap();
    // `join` expects its subscription.
    let refused = app.receive_frames(call("open", &["subscribe room"])).await;
    assert!(
        matches!(refused, Err(BackendError::Failed { .. })),
        "{refused:?}"
    );
}
