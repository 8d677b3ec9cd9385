//! Calls of components for the events of Spin's cron trigger.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::time::timeout;
use wasmtime::{
    Store,
    component::{InstancePre, Linker},
};

use self::bindings::fermyon::spin_cron::cron_types::{Error, Metadata};
use super::{
    call::Call,
    component::Component,
    guest::{Guest, Incoming},
    instance::{CallError, Instance},
};
use crate::{backend::BackendError, manifest::USE_SPIN};

/// The function for events.
const EXPORT: &str = "handle-cron-event";

#[allow(missing_docs, reason = "generated")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "socket-host:embedded/cron",
        exports: { default: async },
    });
}

/// Adds the interface of the types to a linker. It has no functions.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker
        .instance("fermyon:spin-cron/cron-types@2.0.0")
        .map(drop)
}

/// A linked component that handles events. Clones share its code.
#[derive(Clone)]
pub(crate) struct CronPre(Arc<bindings::CronPre<Guest>>);

impl CronPre {
    /// Returns the component if it exports a function for events.
    ///
    /// # Errors
    /// Fails if the function has another type than the host calls.
    pub(crate) fn find(pre: &InstancePre<Guest>) -> anyhow::Result<Option<Self>> {
        if pre.component().get_export_index(None, EXPORT).is_none() {
            return Ok(None);
        }
        let pre = bindings::CronPre::new(pre.clone())
            .map_err(anyhow::Error::from)
            .with_context(|| format!("its export {EXPORT} has another type; {USE_SPIN}"))?;
        Ok(Some(Self(Arc::new(pre))))
    }
}

/// A component that handles events, each in an instance of its own.
pub(crate) struct CronHandler {
    component: Arc<Component>,
    pre: CronPre,
}

impl CronHandler {
    pub(crate) fn new(component: Arc<Component>, pre: CronPre) -> Self {
        Self { component, pre }
    }

    /// Calls the component and waits until it has handled the event.
    ///
    /// # Errors
    /// Fails if the component fails to start, traps, returns an error, or exceeds the timeout of a
    /// request.
    pub(crate) async fn call(&self, timestamp: u64) -> Result<(), BackendError> {
        let limit = self.component.limits.request_timeout;
        let handled = match timeout(limit, self.call_instance(timestamp)).await {
            Ok(Ok(handled)) => handled.map_err(|Error::Other(text)| {
                CallError::NoResult(format!("{EXPORT} returned an error: {text}"))
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::TimedOut(limit)),
        };
        handled.map_err(|error| error.record(&self.component))
    }

    /// Calls the component in an instance of its own.
    async fn call_instance(&self, timestamp: u64) -> Result<Result<(), Error>, CallError> {
        let engine = self.pre.0.engine();
        let start = async |store: &mut Store<Guest>| self.pre.0.instantiate_async(store).await;
        let mut instance =
            Instance::start(&self.component, engine, Incoming::Wasi03, start).await?;
        let event = Metadata { timestamp };
        let call = async |store: &mut Store<Guest>, guest: &bindings::Cron| {
            guest.call_handle_cron_event(store, event).await
        };
        instance.call(Call::of_host(), call).await
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, component::Component};

    use super::*;

    fn find(name: &str) -> anyhow::Result<Option<CronPre>> {
        let engine = Engine::default();
        let text = format!(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func (export "{name}") (canon lift (core func $i "f"))))"#
        );
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let linker = Linker::<Guest>::new(&engine);
        CronPre::find(&linker.instantiate_pre(&component).unwrap())
    }

    #[test]
    fn a_function_of_another_type_is_an_error_with_the_cause() {
        assert!(find("other").unwrap().is_none());
        let Err(error) = find(EXPORT) else {
            panic!("the function has no parameter")
        };
        assert!(error.chain().len() > 1, "{error:#}");
        let error = format!("{error:#}");
        assert!(error.contains("its export handle-cron-event"), "{error}");
    }
}
