//! Requests that guests send: to a server, to another component, or to the application itself.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, header};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{body, call::Call, component::Component};
use crate::{
    allowed_hosts::{SELF_HOST, service_chain_target},
    backend::{BackendError, Body, Caller},
};

/// The response to a guest's request, with a future that resolves to a later connection error.
pub(crate) type PendingResponse = Box<
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
pub(crate) struct Outgoing {
    component: Arc<Component>,
    /// The call that the next request belongs to.
    pub(crate) call: Call,
}

impl Outgoing {
    pub(crate) fn new(component: Arc<Component>) -> Self {
        Self {
            component,
            call: Call {
                caller: Caller::Host,
                depth: 0,
            },
        }
    }
}

impl WasiHttpHooks for Outgoing {
    /// The header is set from the URI when the request is sent.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> PendingResponse {
        let component = self.component.clone();
        let call = self.call;
        Box::new(async move {
            let response = send(&component, call, request, options.unwrap_or_default()).await?;
            let no_later_error: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((response, no_later_error))
        })
    }
}

enum Destination {
    /// This application, by its routes.
    Application,
    /// A component of this application, by its id.
    Component(String),
    Server,
}

impl Destination {
    fn of(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        if host == SELF_HOST {
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
    if call.depth >= component.limits.call_depth {
        component.log.denied.log(|| {
            tracing::error!(
                component = %component.id,
                uri = %request.uri(),
                "request denied: components call each other in a loop"
            );
        });
        return Err(Error::LoopDetected);
    }
    let app = component.app.upgrade().ok_or(Error::ConnectionTerminated)?;
    let mut call = Call {
        depth: call.depth + 1,
        ..call
    };
    let mut request = request.map(body::from_guest);
    let response = match target {
        Some(id) => {
            // As in Spin, a service chaining request has no client address.
            call.caller = Caller::Host;
            request.headers_mut().remove(header::HOST);
            app.call_component(&id, request, call).await
        }
        None => {
            to_origin_form(&mut request);
            request
                .headers_mut()
                .insert(header::HOST, HeaderValue::from_static("localhost"));
            app.call(request, call).await
        }
    };
    match response {
        Ok(response) => Ok(response.map(body::to_guest)),
        Err(error) => Err(to_wasi_error(error)),
    }
}

fn to_origin_form(request: &mut Request<Body>) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
}

/// Converts the failure of a component to that of a server.
fn to_wasi_error(error: BackendError) -> Error {
    match error {
        BackendError::NoRoute { .. } => Error::DestinationNotFound,
        BackendError::Deadline { .. } => Error::HttpResponseTimeout,
        BackendError::RequestBody(_) => Error::HttpRequestBodySize(None),
        BackendError::Busy { .. } => Error::ConnectionLimitReached,
        BackendError::Failed { .. } => Error::InternalError(Some("component failed".into())),
        BackendError::Unreachable { .. } => Error::DestinationUnavailable,
        BackendError::Broken { .. } => Error::ConnectionTerminated,
    }
}

fn check_allowed(component: &Component, destination: &Destination, uri: &Uri) -> Result<(), Error> {
    let scheme = uri.scheme_str().unwrap_or("https");
    let host = uri.host().unwrap_or_default();
    let (is_allowed, missing_entry) = match destination {
        Destination::Application => (
            component.allowed_hosts.allows_self(),
            "http://self".to_owned(),
        ),
        _ => {
            let port = uri
                .port()
                .map(|port| format!(":{port}"))
                .unwrap_or_default();
            (
                component.allowed_hosts.allows(scheme, host, uri.port_u16()),
                format!("{scheme}://{host}{port}"),
            )
        }
    };
    if is_allowed {
        return Ok(());
    }
    component.log.denied.log(|| {
        tracing::error!(
            component = %component.id,
            %uri,
            missing_entry,
            "request denied: host not in allowed_outbound_hosts"
        );
    });
    Err(Error::HttpRequestDenied)
}
