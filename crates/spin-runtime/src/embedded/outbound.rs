//! Requests that guests send: to the outside, to another component, or to the application itself.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, header, uri::Authority};
use wasmtime::{
    AsContextMut as _, Result, StoreContextMut,
    component::{Accessor, HasData, Linker, Resource},
};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtxView, WasiHttpHooks, WasiHttpView as _,
    p2::{
        bindings::http::{outgoing_handler, types},
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
    p3::{self, bindings::http::client, bindings::http::types::ErrorCode},
};

use super::{
    body,
    component::Component,
    state::{Call, Guest},
};
use crate::{
    backend::{BackendError, Body, Caller},
    outbound::{is_self, service_chain_target},
};

/// Components that may call one another in a row. Beyond it a call is refused: they go in circles.
const DEPTH: u8 = 16;
/// What a request without a host is taken to ask for: the application itself.
const SELF: &str = "self";

/// WASI 0.2's interface for sending, in the version whose types wasmtime links.
const P2_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// A request of a guest under way: its answer, and what may go wrong with its connection later.
pub type Exchange = Box<
    dyn Future<
            Output = Result<
                (
                    Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                ),
                Error,
            >,
        > + Send,
>;

/// Sends the requests of an instance.
pub struct Outbound {
    component: Arc<Component>,
    /// The call that the next request belongs to.
    pub call: Call,
}

impl Outbound {
    /// For an instance of `component` that has not been called yet.
    pub fn new(component: Arc<Component>) -> Self {
        Self {
            component,
            call: Call {
                caller: Caller::Host,
                depth: 0,
            },
        }
    }
}

impl WasiHttpHooks for Outbound {
    /// The host header is made from the URI, by whoever sends the request on.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Exchange {
        let component = self.component.clone();
        let call = self.call;
        Box::new(async move {
            let response = send(&component, call, request, options.unwrap_or_default()).await?;
            let nothing_more: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((response, nothing_more))
        })
    }
}

/// Where a request goes.
enum Destination {
    /// This application, by its routes.
    Application,
    /// A component of it, by its id.
    Component(String),
    /// A server.
    Server,
}

impl Destination {
    fn of(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        if host.is_empty() || is_self(host) {
            return Self::Application;
        }
        match service_chain_target(host) {
            Some(component) => Self::Component(component.to_owned()),
            None => Self::Server,
        }
    }
}

async fn send(
    component: &Component,
    call: Call,
    request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Response<WasiBody>, Error> {
    let destination = Destination::of(request.uri());
    check_allowed(component, &destination, request.uri())?;
    let target = match destination {
        Destination::Server => return component.client.send(request, options).await,
        Destination::Component(id) => Some(id),
        Destination::Application => None,
    };
    if call.depth >= DEPTH {
        tracing::error!(
            component = %component.id,
            uri = %request.uri(),
            "refused: components call one another in circles"
        );
        return Err(Error::LoopDetected);
    }
    let app = component.app.upgrade().ok_or(Error::ConnectionTerminated)?;
    let app = app.app();
    let mut call = Call {
        depth: call.depth + 1,
        ..call
    };
    let mut request = request.map(body::from_guest);
    let answer = match target {
        Some(id) => {
            // What it is told about its client is that there is none.
            call.caller = Caller::Host;
            request.headers_mut().remove(header::HOST);
            app.call_component(&id, request, call).await
        }
        None => {
            into_origin_form(&mut request);
            request
                .headers_mut()
                .insert(header::HOST, HeaderValue::from_static("localhost"));
            app.call(request, call).await
        }
    };
    match answer {
        Ok(response) => Ok(response.map(body::to_guest)),
        Err(error) => Err(explain(error)),
    }
}

fn into_origin_form(request: &mut Request<Body>) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
}

/// A failing component is to its caller what a failing server would be.
fn explain(error: BackendError) -> Error {
    match error {
        BackendError::NoRoute { .. } => Error::DestinationNotFound,
        BackendError::Deadline { .. } => Error::HttpResponseTimeout,
        BackendError::Failed { .. } => Error::InternalError(Some("the component failed".into())),
        BackendError::Unreachable { .. } => Error::DestinationUnavailable,
        BackendError::Broken { .. } => Error::ConnectionTerminated,
    }
}

fn check_allowed(component: &Component, destination: &Destination, uri: &Uri) -> Result<(), Error> {
    let scheme = uri.scheme_str().unwrap_or("https");
    let host = uri.host().unwrap_or_default();
    let (allowed, entry) = match destination {
        Destination::Application => (component.allowed.allows_self(), "http://self".to_owned()),
        _ => {
            let port = uri
                .port()
                .map(|port| format!(":{port}"))
                .unwrap_or_default();
            (
                component.allowed.allows(scheme, host, uri.port_u16()),
                format!("{scheme}://{host}{port}"),
            )
        }
    };
    if allowed {
        return Ok(());
    }
    tracing::error!(
        component = %component.id,
        %uri,
        "request refused: {entry:?} is not among allowed_outbound_hosts of [component.{}]",
        component.id
    );
    Err(Error::HttpRequestDenied)
}

/// Adds the interfaces that send requests.
///
/// # Errors
/// When they clash with others.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    client::add_to_linker::<_, Sending>(linker, Guest::http)?;
    linker.instance(P2_HANDLER)?.func_wrap("handle", send_p2)
}

/// WASI 0.3's client, which first finds out on behalf of which call the guest sends: several run
/// in one instance.
struct Sending;

impl HasData for Sending {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl client::HostWithStore<Guest> for Sending {
    async fn send(
        accessor: &Accessor<Guest, Self>,
        request: Resource<p3::Request>,
    ) -> Result<Resource<p3::Response>, TrappableError<ErrorCode>> {
        accessor
            .with(|mut access| {
                let mut store = access.as_context_mut();
                let tasks: Vec<_> = store.async_call_stack()?.collect();
                let guest = store.data_mut();
                let of_task = |task| guest.calls.iter().rev().find(|(id, _)| *id == task);
                if let Some((_, call)) = tasks.into_iter().find_map(of_task) {
                    guest.outbound.call = *call;
                }
                let request = guest.table.get_mut(&request)?;
                request
                    .authority
                    .get_or_insert(Authority::from_static(SELF));
                Ok::<_, wasmtime::Error>(())
            })
            .map_err(TrappableError::trap)?;
        // The first thing this does, before it can wait for anything, is to call the hook above.
        let accessor = accessor.with_getter::<WasiHttp>(Guest::http);
        <WasiHttp as client::HostWithStore<Guest>>::send(&accessor, request).await
    }
}

/// WASI 0.2's, which also knows requests without a host.
fn send_p2(
    mut store: StoreContextMut<'_, Guest>,
    (request, options): (
        Resource<HostOutgoingRequest>,
        Option<Resource<RequestOptions>>,
    ),
) -> Result<(Result<Resource<HostFutureIncomingResponse>, types::ErrorCode>,)> {
    let mut view = store.data_mut().http();
    let outgoing = view.table.get_mut(&request)?;
    if outgoing.authority.as_deref().unwrap_or_default().is_empty() {
        outgoing.authority = Some(SELF.to_owned());
    }
    match outgoing_handler::Host::handle(&mut view, request, options) {
        Ok(response) => Ok((Ok(response),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}
