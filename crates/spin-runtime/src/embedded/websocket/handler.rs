//! Passes upgrade requests and frames to a component.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::{sync::oneshot, time::timeout};
use wasmtime::{
    Store,
    component::{InstancePre, Resource},
};
use wasmtime_wasi_http::{
    WasiBody,
    p2::bindings::http::types::{ErrorCode, Scheme},
};

use super::{
    bindings::{WebsocketHandler, WebsocketHandlerPre},
    convert,
};
use crate::{
    backend::{BackendError, Body, BodyError, empty, full},
    embedded::{
        body,
        call::Call,
        capacity::WaitingRequests,
        component::Component,
        guest::{Guest, Incoming},
        idle_instances::IdleInstances,
        instance::{CallError, Instance, until_response},
    },
    limits::Limits,
    manifest::USE_SPIN,
    websocket::{Opening, Pending, ReceivedFrame},
};

/// The interface of a component that handles WebSockets.
const EXPORT: &str = "fermyon:spin/inbound-websocket-receive";

/// The largest body of a response that refuses a WebSocket, in bytes.
const MAX_REFUSAL_BYTES: usize = Limits::DEFAULT.refusal_bytes;

/// A linked component that handles WebSockets. Clones share its code.
#[derive(Clone)]
pub(crate) struct WebSocketPre(Arc<WebsocketHandlerPre<Guest>>);

impl WebSocketPre {
    /// Returns the component if it exports the interface.
    ///
    /// # Errors
    /// Fails if the interface has other functions than the host calls.
    pub(crate) fn find(pre: &InstancePre<Guest>) -> anyhow::Result<Option<Self>> {
        if pre.component().get_export_index(None, EXPORT).is_none() {
            return Ok(None);
        }
        let pre = WebsocketHandlerPre::new(pre.clone())
            .map_err(anyhow::Error::from)
            .with_context(|| format!("its export {EXPORT} is not that of SIP-016; {USE_SPIN}"))?;
        Ok(Some(Self(Arc::new(pre))))
    }
}

/// A component that handles WebSockets. By default, each call has an instance of its own.
pub(crate) struct WebSocketHandler {
    component: Arc<Component>,
    pre: WebSocketPre,
    /// Set if instances are reused.
    idle: Option<IdleInstances<HandlerInstance>>,
    /// Bounds the upgrade requests that wait for an instance.
    waiting: WaitingRequests,
}

type HandlerInstance = Instance<WebsocketHandler>;

/// The response of a guest.
type GuestResponse = Result<Response<WasiBody>, ErrorCode>;

impl WebSocketHandler {
    /// Creates a handler, whose instances are reused or not.
    pub(crate) fn new(component: Arc<Component>, pre: WebSocketPre, reuses: bool) -> Self {
        Self {
            idle: reuses.then(|| IdleInstances::new(component.clone())),
            waiting: WaitingRequests::new(component.limits.waiting_requests),
            component,
            pre,
        }
    }

    /// Passes on an upgrade request, and returns when the component has responded.
    ///
    /// # Errors
    /// Fails if too many upgrade requests wait, or if the component fails before it responds.
    pub(crate) async fn open(
        self: Arc<Self>,
        token: Arc<str>,
        request: Request<Body>,
        context: Call,
    ) -> Result<Opening, BackendError> {
        let opened = self.clone().call_new(token, request, context).await;
        opened.inspect_err(|error| self.log_failure(error))
    }

    async fn call_new(
        self: Arc<Self>,
        token: Arc<str>,
        request: Request<Body>,
        context: Call,
    ) -> Result<Opening, BackendError> {
        let room = self.component.permits.available_permits();
        let waiting = self.component.admit(&self.waiting, room)?;
        let (sender, receiver) = oneshot::channel();
        let handler = self.clone();
        let mut call: Pending<'static, Result<(), CallError>> = Box::pin(async move {
            let mut instance = handler.instance().await?;
            drop(waiting);
            let call = async |store: &mut Store<Guest>, guest: &WebsocketHandler| {
                call_handle_new(store, guest, &token, request, sender).await
            };
            instance.call(context, call).await?;
            handler.keep(instance);
            Ok(())
        });
        let (response, returned) = until_response(&mut call, receiver).await;
        let response = match (response, returned) {
            (Some(Ok(response)), returned) => {
                if let Some(result) = returned {
                    call = Box::pin(async { result });
                }
                response
            }
            (_, Some(Err(error))) => return Err(error.record(&self.component)),
            (Some(Err(code)), _) => {
                let text = format!("handle-new responded with an error: {code:?}");
                return Err(CallError::NoResult(text).record(&self.component));
            }
            (None, _) => {
                let text = "handle-new did not set a response".to_owned();
                return Err(CallError::NoResult(text).record(&self.component));
            }
        };
        let component = self.component.clone();
        let call: Pending<'static, _> =
            Box::pin(async move { call.await.map_err(|error| error.record(&component)) });
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Opening {
                component: self.component.id.clone(),
                response: response.map(|_| empty()),
                call,
            });
        }
        // The guest may be writing the body.
        let (parts, body) = response.into_parts();
        let body = timeout(
            self.component.limits.request_timeout,
            read_refusal(body::from_guest(body)),
        );
        let (called, body) = tokio::join!(call, body);
        called?;
        let body = body.unwrap_or_else(|_| Err("it does not end".into()));
        let body = body.map_err(|error| {
            CallError::NoResult(format!("invalid response body: {error}")).record(&self.component)
        })?;
        Ok(Opening {
            component: self.component.id.clone(),
            response: Response::from_parts(parts, full(body)),
            call: Box::pin(async { Ok(()) }),
        })
    }

    fn log_failure(&self, error: &BackendError) {
        let (log, component) = (&self.component.log, &*self.component.id);
        match error {
            BackendError::Busy { .. } => log.busy.log(|| {
                tracing::warn!(component, "WebSocket refused: too many requests");
            }),
            error => log.request_failed.log(|| {
                tracing::error!(component, %error, "WebSocket handshake failed");
            }),
        }
    }

    /// Passes frames on, and returns when the component has handled them.
    ///
    /// # Errors
    /// Fails if the component fails, or takes longer than a request may. With [`BackendError::Busy`], it
    /// has not received the frames.
    pub(crate) async fn receive(
        &self,
        token: &str,
        frames: Vec<ReceivedFrame>,
        context: Call,
    ) -> Result<(), BackendError> {
        let called = async {
            let mut instance = self.instance().await?;
            let frames: Vec<_> = frames.into_iter().map(convert::to_guest).collect();
            let call = async |store: &mut Store<Guest>, guest: &WebsocketHandler| {
                let receive = guest.fermyon_spin_inbound_websocket_receive();
                receive.call_handle_frames(store, token, &frames).await
            };
            instance.call(context, call).await?;
            self.keep(instance);
            Ok(())
        };
        called
            .await
            .map_err(|error: CallError| error.record(&self.component))
    }

    /// Returns an instance that waits for its next call, or a new one.
    async fn instance(&self) -> Result<HandlerInstance, CallError> {
        if let Some(instance) = self.idle.as_ref().and_then(IdleInstances::take) {
            return Ok(instance);
        }
        let pre = &self.pre.0;
        let start = async |store: &mut Store<Guest>| pre.instantiate_async(store).await;
        Instance::start(&self.component, pre.engine(), Incoming::Wasi02, start).await
    }

    fn keep(&self, instance: HandlerInstance) {
        if let Some(idle) = &self.idle {
            let (calls, limits) = (instance.calls(), *instance.limits());
            idle.put(instance, calls, &limits);
        }
    }
}

/// Reads the body of a response that refuses a WebSocket.
async fn read_refusal(mut body: Body) -> Result<Bytes, BodyError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_REFUSAL_BYTES {
            return Err(format!("expected at most {MAX_REFUSAL_BYTES} bytes").into());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

async fn call_handle_new(
    store: &mut Store<Guest>,
    guest: &WebsocketHandler,
    token: &str,
    request: Request<Body>,
    sender: oneshot::Sender<GuestResponse>,
) -> wasmtime::Result<()> {
    let scheme = match request.uri().scheme_str() {
        Some("https") => Scheme::Https,
        _ => Scheme::Http,
    };
    let request = request.map(body::to_guest);
    let mut view = store.data_mut().incoming();
    let request: Resource<_> = view.new_incoming_request(scheme, request)?;
    let response = view.new_response_outparam(sender)?;
    let receive = guest.fermyon_spin_inbound_websocket_receive();
    receive
        .call_handle_new(store, token, request, response)
        .await
}
