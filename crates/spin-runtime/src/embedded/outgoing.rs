//! Requests that guests send: to a server, to another component, or to the application itself.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{body, call::Call, component::Component};
use crate::{
    allowed_hosts::{SELF_HOST, service_chain_target},
    backend::{self, BackendError, Body, Caller},
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
            call: Call::of_host(),
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
        let call = self.call.clone();
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
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Response<WasiBody>, Error> {
    let uri = request.uri().clone();
    let destination = Destination::of(&uri);
    check_allowed(component, &destination, &uri)?;
    if let Some(trace) = &call.trace {
        trace.add_to(request.headers_mut());
    }
    let target = match destination {
        Destination::Server => {
            let permit = component.outgoing_permits.clone().acquire_owned().await;
            let permit = permit.map_err(|_| Error::ConnectionTerminated)?;
            let client = &component.client;
            let response = client.send(&component.id, request, options).await?;
            // Owned by the closure, so that it is released with the body.
            return Ok(response.map(|body| {
                body.map_err(move |error| {
                    let _permit = &permit;
                    error
                })
                .boxed_unsync()
            }));
        }
        Destination::Component(id) => Some(id),
        Destination::Application => None,
    };
    let is_component = target.is_some();
    if call.depth >= component.limits.call_depth {
        component.log.denied.log(|| {
            tracing::error!(
                component = %component.id,
                %uri,
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
    // In a task of its own, so that components that a guest calls at once run at once.
    let response = AbortOnDropHandle::new(tokio::spawn(async move {
        match target {
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
        }
    }));
    let response = response
        .await
        .map_err(|error| Error::InternalError(Some(error.to_string())))?;
    // As in Spin, a path without a route and a failed component result in responses.
    let status = match response {
        Ok(response) => return Ok(response.map(body::to_guest)),
        Err(BackendError::NoRoute { .. }) if is_component => {
            return Err(unknown_component(component, &uri));
        }
        Err(BackendError::NoRoute { .. }) => StatusCode::NOT_FOUND,
        Err(BackendError::Failed { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
        Err(error) => return Err(to_wasi_error(error)),
    };
    let mut response = Response::new(body::to_guest(backend::empty()));
    *response.status_mut() = status;
    Ok(response)
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
    let allowed_hosts = &component.allowed_hosts;
    let (is_allowed, missing_entry) = match destination {
        Destination::Application => (allowed_hosts.allows_self(), "http://self".to_owned()),
        _ => {
            let (scheme, host) = scheme_and_host(uri);
            let is_allowed = allowed_hosts.allows(scheme, host, uri.port_u16());
            (is_allowed, entry_for(uri))
        }
    };
    if is_allowed {
        Ok(())
    } else {
        Err(deny(component, uri, &missing_entry))
    }
}

/// Returns the error for a component that does not exist. As in Spin, `*.spin.internal` only allows
/// the components of the application.
fn unknown_component(component: &Component, uri: &Uri) -> Error {
    let (scheme, host) = scheme_and_host(uri);
    let allowed_hosts = &component.allowed_hosts;
    if allowed_hosts.allows_as_subdomain_only(scheme, host, uri.port_u16()) {
        deny(component, uri, &entry_for(uri))
    } else {
        Error::DestinationNotFound
    }
}

/// Logs that a request is denied, and returns the error.
fn deny(component: &Component, uri: &Uri, missing_entry: &str) -> Error {
    component.log.denied.log(|| {
        tracing::error!(
            component = %component.id,
            %uri,
            missing_entry,
            "request denied: host not in allowed_outbound_hosts"
        );
    });
    Error::HttpRequestDenied
}

fn scheme_and_host(uri: &Uri) -> (&str, &str) {
    let scheme = uri.scheme_str().unwrap_or("https");
    (scheme, uri.host().unwrap_or_default())
}

/// Returns the entry of `allowed_outbound_hosts` that allows a request.
fn entry_for(uri: &Uri) -> String {
    let (scheme, host) = scheme_and_host(uri);
    let port = uri
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{scheme}://{host}{port}")
}
