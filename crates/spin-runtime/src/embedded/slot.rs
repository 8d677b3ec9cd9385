//! The place of a component in an application, which may have to be compiled before it can be called.

use std::sync::Arc;

use tokio::{sync::SetOnce, time::timeout};

use super::{
    app::Handler, call::Call, capacity::WaitingRequests, compile::Exports, component::Component,
    cron_call::CronHandler, websocket::WebSocketHandler,
};
use crate::{
    backend::{BackendError, Busy},
    manifest::Manifest,
};

/// A component and what calls it, once it is compiled.
pub(crate) struct Slot {
    component: Arc<Component>,
    reuses_websocket_instances: bool,
    /// `None` if the application cannot run.
    handlers: SetOnce<Option<Handlers>>,
    /// Bounds the requests that wait for the code.
    waiting: WaitingRequests,
}

/// What calls a component: at least one of them.
pub(crate) struct Handlers {
    /// Passes HTTP requests to it.
    pub(crate) http: Option<Handler>,
    /// Passes typed frames of WebSockets to it.
    pub(crate) websocket: Option<Arc<WebSocketHandler>>,
    /// Passes the events of cron triggers to it.
    pub(crate) cron: Option<CronHandler>,
}

impl Slot {
    /// Creates the place of a component that is not compiled yet.
    pub(crate) fn new(component: Component, manifest: &Manifest) -> Self {
        let settings = manifest.components.get(&*component.id);
        Self {
            reuses_websocket_instances: settings.is_some_and(|it| it.reuses_websocket_instances),
            handlers: SetOnce::new(),
            waiting: WaitingRequests::new(component.limits.waiting_requests),
            component: Arc::new(component),
        }
    }

    pub(crate) fn component(&self) -> &Arc<Component> {
        &self.component
    }

    /// Lets the component be called. Requests that wait for it go on.
    pub(crate) fn set_compiled(&self, exports: Exports) {
        let component = &self.component;
        let websocket = exports.websocket.map(|pre| {
            let reuses = self.reuses_websocket_instances;
            Arc::new(WebSocketHandler::new(component.clone(), pre, reuses))
        });
        let cron = exports.cron;
        let handlers = Handlers {
            http: exports.http.map(|pre| Handler::new(component.clone(), pre)),
            websocket,
            cron: cron.map(|pre| CronHandler::new(component.clone(), pre)),
        };
        // Each component is compiled once for an application.
        let _ = self.handlers.set(Some(handlers));
    }

    /// Fails the requests that wait for the component, unless it is compiled.
    pub(crate) fn abandon(&self) {
        let _ = self.handlers.set(None);
    }

    /// Returns what calls the component, if it is compiled.
    pub(crate) fn compiled(&self) -> Option<&Handlers> {
        self.handlers.get()?.as_ref()
    }

    /// Returns what calls the component. Waits until it is compiled.
    ///
    /// # Errors
    /// Fails if too many requests wait already, if the timeout of a request expires, unless the call
    /// waits for capacity, or if the application cannot run.
    pub(crate) async fn wait(&self, call: &Call) -> Result<&Handlers, BackendError> {
        let handlers = match self.handlers.get() {
            Some(handlers) => handlers,
            None => {
                // Boxed, since otherwise each request would keep the space for it.
                Box::pin(self.wait_until_compiled(call)).await?
            }
        };
        handlers.as_ref().ok_or_else(|| self.starting())
    }

    async fn wait_until_compiled(&self, call: &Call) -> Result<&Option<Handlers>, BackendError> {
        let component = &self.component;
        if call.waits {
            let _waiting = self.waiting.add();
            return Ok(self.handlers.wait().await);
        }
        let room = component.permits.available_permits();
        let _waiting = component.admit(&self.waiting, room)?;
        let handlers = timeout(component.limits.request_timeout, self.handlers.wait()).await;
        handlers.map_err(|_| self.starting())
    }

    fn starting(&self) -> BackendError {
        self.component.busy(Busy::Starting)
    }
}
