//! Stubs for interfaces that a dependency may not use, because it does not inherit the permission.
//!
//! Their imports are renamed. The functions under the new names return an error, preferably the one
//! for a missing permission, or an empty value. A function whose results allow neither traps.

use wasmtime::{
    Result, bail,
    component::{LinkerInstance, ResourceAny, Type, Val, types::ComponentFunc},
};

/// The prefix of the names of denied imports.
const PREFIX: &str = "denied-";

/// The cases of errors for a missing permission, the best first. A case may have a text.
const ERROR_CASES: [&str; 12] = [
    "access-denied",
    "HTTP-request-denied",
    "invalid-address",
    "destination-not-allowed",
    "model-not-supported",
    "undefined",
    "internal-error",
    "other",
    "other-error",
    "io",
    "upstream",
    "error",
];

/// Returns the name of an import that is denied.
#[cfg_attr(not(feature = "compose"), expect(dead_code))]
pub(crate) fn denied_name(import: &str) -> String {
    format!("{PREFIX}{import}")
}

/// Returns whether an import is denied.
pub(crate) fn is_denied(import: &str) -> bool {
    import.starts_with(PREFIX)
}

/// Defines a function of a denied import.
///
/// # Errors
/// Fails if the linker has a function of this name.
pub(crate) fn define_function<T: Send + 'static>(
    instance: &mut LinkerInstance<'_, T>,
    import: &str,
    name: &str,
    function: &ComponentFunc,
) -> Result<()> {
    let interface = import.strip_prefix(PREFIX).unwrap_or(import);
    let message = format!("{interface} is not permitted");
    let called = name.to_owned();
    if function.async_() {
        // Resources that it gets are dropped with the instance.
        return instance.func_new_concurrent(name, move |_, function, parameters, results| {
            let result = set_results(&function, parameters, results, &called, &message);
            Box::pin(async { result })
        });
    }
    instance.func_new_async(name, move |mut store, function, parameters, results| {
        let result = set_results(&function, parameters, results, &called, &message);
        Box::new(async move {
            for resource in parameters.iter().filter_map(resource) {
                // A borrowed resource must not outlive the call.
                resource.resource_drop_async(&mut store).await?;
            }
            result
        })
    })
}

/// Returns the resource that a value consists of.
fn resource(value: &Val) -> Option<ResourceAny> {
    match value {
        Val::Resource(resource) => Some(*resource),
        Val::Option(Some(value)) => resource(value),
        _ => None,
    }
}

/// Sets the results of a denied call.
///
/// # Errors
/// Fails, which traps, if the types of the results include neither an error nor an empty value.
fn set_results(
    function: &ComponentFunc,
    parameters: &[Val],
    results: &mut [Val],
    name: &str,
    message: &str,
) -> Result<()> {
    for (result, result_type) in results.iter_mut().zip(function.results()) {
        let Some(value) = denied_value(&result_type, parameters, message) else {
            bail!("{message} for this dependency: it called {name}");
        };
        *result = value;
    }
    Ok(())
}

/// Returns an empty value or an error of this type.
fn denied_value(result_type: &Type, parameters: &[Val], message: &str) -> Option<Val> {
    match result_type {
        Type::List(_) => Some(Val::List(Vec::new())),
        Type::Option(_) => Some(Val::Option(None)),
        Type::Result(result) => {
            let error = match result.err() {
                Some(error) => Some(Box::new(error_value(&error, parameters, message)?)),
                None => None,
            };
            Some(Val::Result(Err(error)))
        }
        _ => None,
    }
}

/// Returns the best case of an error.
fn error_value(error: &Type, parameters: &[Val], message: &str) -> Option<Val> {
    match error {
        Type::Enum(cases) => {
            let case = ERROR_CASES
                .into_iter()
                .find(|case| cases.names().any(|name| name == *case))?;
            Some(Val::Enum(case.to_owned()))
        }
        Type::Variant(variant) => ERROR_CASES.into_iter().find_map(|case| {
            let found = variant.cases().find(|found| found.name == case)?;
            // The only text of such an error is the name of the variable.
            let text = match (case, parameters.first()) {
                ("undefined", Some(Val::String(name))) => name.as_str(),
                _ => message,
            };
            let text = Val::String(text.to_owned());
            let payload = match found.ty {
                None => None,
                Some(Type::String) => Some(text),
                Some(Type::Option(inner)) if inner.ty() == Type::String => {
                    Some(Val::Option(Some(Box::new(text))))
                }
                Some(_) => return None,
            };
            Some(Val::Variant(case.to_owned(), payload.map(Box::new)))
        }),
        Type::String => Some(Val::String(message.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{
        Engine, Store,
        component::{Component, Linker, ResourceType},
    };

    use crate::embedded::stubs;

    /// A component whose `run` passes a resource of the host to a denied function. It returns the
    /// bytes of the result.
    const BORROWER: &str = r#"(component
        (import "a:b/c" (instance $host
            (export "r" (type $r (sub resource)))
            (export "make" (func (result (own $r))))))
        (alias export $host "r" (type $r))
        (import "denied-x:y/z" (instance $denied
            (alias outer 1 $r (type $outer))
            (export "r" (type $r (eq $outer)))
            (export "own" (type (sub resource)))
            (type $error' (enum "other" "access-denied"))
            (export "error" (type $error (eq $error')))
            (export "use" (func (param "r" (borrow $r)) (result (result (error $error)))))
            (export "list" (func (result (list u8))))
            (export "fail" (func (result u32)))))
        (core module $memory (memory (export "m") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 64))
        (core instance $mem (instantiate $memory))
        (alias core export $mem "m" (core memory $m))
        (alias core export $mem "realloc" (core func $realloc))
        (core func $make (canon lower (func $host "make")))
        (core func $use (canon lower (func $denied "use") (memory $m)))
        (core func $list (canon lower (func $denied "list") (memory $m) (realloc $realloc)))
        (core func $fail (canon lower (func $denied "fail")))
        (core module $main
            (import "" "make" (func $make (result i32)))
            (import "" "use" (func $use (param i32 i32)))
            (import "" "list" (func $list (param i32)))
            (import "" "fail" (func $fail (result i32)))
            (import "" "m" (memory 1))
            (func (export "run") (result i32)
                (i32.store (i32.const 12) (i32.const 7))
                (call $list (i32.const 8))
                (call $use (call $make) (i32.const 0))
                (i32.add (i32.load16_u (i32.const 0)) (i32.load (i32.const 12))))
            (func (export "fail") (result i32) (call $fail)))
        (core instance $i (instantiate $main (with "" (instance
            (export "make" (func $make)) (export "use" (func $use)) (export "list" (func $list))
            (export "fail" (func $fail)) (export "m" (memory $m))))))
        (func (export "run") (result u32) (canon lift (core func $i "run")))
        (func (export "fail") (result u32) (canon lift (core func $i "fail"))))"#;

    struct HostResource;

    #[tokio::test]
    async fn denied_calls_are_answered() {
        let engine = Engine::default();
        let component = Component::new(&engine, wat::parse_str(BORROWER).unwrap()).unwrap();
        let mut linker = Linker::<()>::new(&engine);
        let mut host = linker.instance("a:b/c").unwrap();
        let resource_type = ResourceType::host::<HostResource>();
        host.resource("r", resource_type, |_, _| Ok(())).unwrap();
        host.func_wrap("make", |_, ()| {
            Ok((wasmtime::component::Resource::<HostResource>::new_own(1),))
        })
        .unwrap();
        let stubs = stubs::define(&mut linker, &component, |import| import == "a:b/c").unwrap();
        assert!(stubs.is_empty(), "{stubs:?}");
        let mut store = Store::new(&engine, ());
        let instance = linker
            .instantiate_async(&mut store, &component)
            .await
            .unwrap();
        let run = instance
            .get_typed_func::<(), (u32,)>(&mut store, "run")
            .unwrap();
        // The second case of the error, and a list of no bytes in place of 7.
        assert_eq!(run.call_async(&mut store, ()).await.unwrap(), (0x0101,));
        let fail = instance
            .get_typed_func::<(), (u32,)>(&mut store, "fail")
            .unwrap();
        let error = fail.call_async(&mut store, ()).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(
            error.contains("x:y/z is not permitted for this dependency: it called fail"),
            "{error}"
        );
    }
}
