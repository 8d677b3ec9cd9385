//! Stubs for imports that the host does not provide, so that a component runs as long as it does
//! not call them.

use wasmtime::{
    Engine, Result, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentFunc, ComponentInstance, ComponentItem},
    },
};

use super::denied::{self, is_denied};
use crate::manifest::USE_SPIN;

/// Defines the imports of `component` that the linker lacks.
///
/// Functions of denied imports return the error of a missing permission. All others trap when they are
/// called. Returns the names of the imports whose functions trap.
///
/// # Errors
/// Fails if the component imports a module or a component, which cannot be stubbed.
pub(crate) fn define<T: Send + 'static>(
    linker: &mut Linker<T>,
    component: &Component,
    is_provided: impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let engine = component.engine();
    let component_type = component.component_type();
    let mut stubbed = Vec::new();
    let mut declared = Vec::new();
    for (import, item) in component_type.imports(engine) {
        match item.ty {
            ComponentItem::ComponentInstance(interface) => {
                let items = Items::of(&interface, engine, &mut declared);
                if is_provided(import) {
                    continue;
                }
                let mut instance = linker.instance(import)?;
                for resource in items.resources {
                    instance.resource(resource, ResourceType::host::<Absent>(), |_, _| Ok(()))?;
                }
                if !is_denied(import) && !items.functions.is_empty() {
                    stubbed.push(import.to_owned());
                }
                for (name, function) in items.functions {
                    if is_denied(import) {
                        denied::define_function(&mut instance, import, name, &function)?;
                    } else {
                        define_function(&mut instance, &format!("{import}#"), name, &function)?;
                    }
                }
            }
            ComponentItem::ComponentFunc(function) => {
                define_function(&mut linker.root(), "", import, &function)?;
                stubbed.push(import.to_owned());
            }
            ComponentItem::Component(_) | ComponentItem::Module(_) => {
                bail!("it imports {import}, which is code; compose the component when it is built")
            }
            _ => {}
        }
    }
    Ok(stubbed)
}

/// A resource of an interface that the host does not provide. None is ever created.
struct Absent;

/// The items of an interface that a linker defines. Other types need no definition.
struct Items<'a> {
    resources: Vec<&'a str>,
    functions: Vec<(&'a str, ComponentFunc)>,
}

impl<'a> Items<'a> {
    /// `declared` are the resources of earlier imports. Interfaces that use them export an alias,
    /// which must not be defined again.
    fn of(
        interface: &'a ComponentInstance,
        engine: &'a Engine,
        declared: &mut Vec<ResourceType>,
    ) -> Self {
        let (mut resources, mut functions) = (Vec::new(), Vec::new());
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::Resource(resource) if !declared.contains(&resource) => {
                    declared.push(resource);
                    resources.push(name);
                }
                ComponentItem::ComponentFunc(function) => functions.push((name, function)),
                _ => {}
            }
        }
        Self {
            resources,
            functions,
        }
    }
}

fn define_function<T: Send + 'static>(
    instance: &mut LinkerInstance<'_, T>,
    prefix: &str,
    name: &str,
    function: &ComponentFunc,
) -> Result<()> {
    let message = format!("{prefix}{name} is not provided by this host; {USE_SPIN}");
    if function.async_() {
        instance.func_new_concurrent(name, move |_, _, _, _| {
            let error = wasmtime::format_err!("{message}");
            Box::pin(async move { Err(error) })
        })
    } else {
        instance.func_new(name, move |_, _, _, _| bail!("{message}"))
    }
}
