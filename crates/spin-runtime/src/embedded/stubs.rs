//! Stubs for imports that the host does not provide, so that a component runs as long as it does
//! not call them.

use wasmtime::{
    Result, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentFunc, ComponentItem},
    },
};

use super::{denied::is_denied, guest::Guest, linker::is_provided};
use crate::manifest::USE_SPIN;

/// Defines the imports of `component` that the linker lacks, other than the denied ones.
///
/// Their functions trap when they are called. Returns the names of the imports that have functions.
///
/// # Errors
/// Fails if the component imports a module or a component, which cannot be stubbed.
pub(crate) fn define(linker: &mut Linker<Guest>, component: &Component) -> Result<Vec<String>> {
    let engine = component.engine();
    let component_type = component.component_type();
    let mut stubbed = Vec::new();
    // A resource that an earlier import has declared must not be defined again under its alias.
    let mut resources = Vec::new();
    for (import, item) in component_type.imports(engine) {
        let mut has_functions = false;
        match item.ty {
            ComponentItem::ComponentInstance(interface) => {
                let mut stub = if is_provided(import) || is_denied(import) {
                    None
                } else {
                    Some(linker.instance(import)?)
                };
                for (name, item) in interface.exports(engine) {
                    match (item.ty, &mut stub) {
                        (ComponentItem::Resource(resource), stub) => {
                            let is_alias = resources.contains(&resource);
                            if !is_alias {
                                resources.push(resource);
                            }
                            if let Some(stub) = stub.as_mut().filter(|_| !is_alias) {
                                stub.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))?;
                            }
                        }
                        (ComponentItem::ComponentFunc(function), Some(stub)) => {
                            define_function(stub, import, name, &function)?;
                            has_functions = true;
                        }
                        _ => {}
                    }
                }
            }
            ComponentItem::ComponentFunc(function) => {
                define_function(&mut linker.root(), "", import, &function)?;
                has_functions = true;
            }
            ComponentItem::Component(_) | ComponentItem::Module(_) => {
                bail!("it imports {import}, which is code; compose the component when it is built")
            }
            _ => {}
        }
        if has_functions {
            stubbed.push(import.to_owned());
        }
    }
    Ok(stubbed)
}

fn define_function(
    linker: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    name: &str,
    function: &ComponentFunc,
) -> Result<()> {
    let separator = if interface.is_empty() { "" } else { "#" };
    let message = format!("{interface}{separator}{name} is not provided by this host; {USE_SPIN}");
    if function.async_() {
        linker.func_new_concurrent(name, move |_, _, _, _| {
            let error = wasmtime::format_err!("{message}");
            Box::pin(async move { Err(error) })
        })
    } else {
        linker.func_new(name, move |_, _, _, _| bail!("{message}"))
    }
}
