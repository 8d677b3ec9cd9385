//! Composes a component with its dependencies, and with the middleware of its trigger.

use std::fmt::Display;

use anyhow::{Context as _, anyhow, bail};
use wac_graph::{
    CompositionGraph, EncodeOptions, NodeId,
    types::{ItemKind, Package, SubtypeChecker, WorldId},
};

use crate::manifest::DependencyName;

/// The interface that middleware imports and exports.
const HANDLER: &str = "wasi:http/handler@0.3.0";

/// A dependency to compose.
pub(super) struct LoadedDependency<'a> {
    pub(super) name: &'a DependencyName,
    /// The export that provides the import. `None` for the one with the same name.
    pub(super) export: Option<&'a str>,
    pub(super) wasm: Vec<u8>,
}

/// Returns a component whose imports come from its dependencies. `source` is used in errors.
///
/// # Errors
/// Fails if a dependency provides no import, or one that another dependency provides too, or if the
/// types differ.
pub(super) fn dependencies(
    source: impl Display,
    wasm: Vec<u8>,
    loaded: Vec<LoadedDependency<'_>>,
) -> anyhow::Result<Vec<u8>> {
    let mut graph = Graph::default();
    let component = graph
        .add("component", wasm)
        .with_context(|| format!("{source} is not a valid component"))?;
    let imports: Vec<String> = graph.imports(component).map(str::to_owned).collect();
    let mut provided: Vec<(String, &DependencyName)> = Vec::new();
    for (index, loaded) in loaded.into_iter().enumerate() {
        let name = loaded.name;
        let matching = imports.iter().filter(|import| name.matches(import));
        let matching: Vec<&String> = matching.collect();
        if matching.is_empty() {
            bail!(
                "the dependency \"{name}\" matches no import of the component, which imports {}",
                list(&imports)
            );
        }
        let dependency = graph
            .add(&format!("dependency{index}"), loaded.wasm)
            .with_context(|| format!("the dependency \"{name}\" is not a valid component"))?;
        for import in matching {
            if let Some((_, other)) = provided.iter().find(|(other, _)| other == import) {
                bail!("the dependencies \"{other}\" and \"{name}\" both provide {import}");
            }
            provided.push((import.clone(), name));
            let export = loaded.export.unwrap_or(import);
            graph
                .connect(component, import, dependency, export)
                .with_context(|| format!("the dependency \"{name}\" does not fit"))?;
        }
    }
    graph.export_all(component)?;
    graph.encode()
}

/// Returns a component whose requests pass through the middleware, the outermost first. `source` is
/// used in errors.
///
/// # Errors
/// Fails if the component or a middleware does not handle requests of WASI 0.3.
pub(super) fn middleware(
    source: impl Display,
    wasm: Vec<u8>,
    layers: Vec<(String, Vec<u8>)>,
) -> anyhow::Result<Vec<u8>> {
    let mut graph = Graph::default();
    let mut handler = graph
        .add("component", wasm)
        .with_context(|| format!("{source} is not a valid component"))?;
    if !graph.exports(handler).any(|export| export == HANDLER) {
        let exports: Vec<String> = graph.exports(handler).map(str::to_owned).collect();
        bail!(
            "middleware needs a component that exports {HANDLER}, and it exports {}",
            list(&exports)
        );
    }
    for (index, (name, wasm)) in layers.into_iter().enumerate().rev() {
        let layer = graph
            .add(&format!("middleware{index}"), wasm)
            .with_context(|| format!("the middleware {name} is not a valid component"))?;
        graph
            .connect(layer, HANDLER, handler, HANDLER)
            .with_context(|| format!("the middleware {name} does not fit"))?;
        handler = layer;
    }
    if !graph.exports(handler).any(|export| export == HANDLER) {
        bail!("the outermost middleware does not export {HANDLER}");
    }
    graph.export(handler, HANDLER)?;
    graph.encode()
}

/// A graph of component instances.
#[derive(Default)]
struct Graph(CompositionGraph);

/// An instance of a component.
#[derive(Clone, Copy)]
struct Instance {
    world: WorldId,
    node: NodeId,
}

impl Graph {
    /// Adds an instance. Each has a name of its own.
    fn add(&mut self, name: &str, wasm: Vec<u8>) -> anyhow::Result<Instance> {
        let package = Package::from_bytes(name, None, wasm, self.0.types_mut())?;
        let world = package.ty();
        let package = self.0.register_package(package)?;
        let node = self.0.instantiate(package);
        Ok(Instance { world, node })
    }

    fn imports(&self, instance: Instance) -> impl Iterator<Item = &str> {
        let imports = &self.0.types()[instance.world].imports;
        imports.keys().map(String::as_str)
    }

    fn exports(&self, instance: Instance) -> impl Iterator<Item = &str> {
        let exports = &self.0.types()[instance.world].exports;
        exports.keys().map(String::as_str)
    }

    /// Passes an export of `provider` to an import of `user`.
    fn connect(
        &mut self,
        user: Instance,
        import: &str,
        provider: Instance,
        export: &str,
    ) -> anyhow::Result<()> {
        let types = self.0.types();
        let import_type = types[user.world].imports.get(import);
        let import_type = *import_type.with_context(|| format!("it does not import {import}"))?;
        let export_type: ItemKind = match types[provider.world].exports.get(export) {
            Some(export_type) => *export_type,
            None => {
                let exports: Vec<String> = self.exports(provider).map(str::to_owned).collect();
                return Err(anyhow!(
                    "{export} is not exported, and {import} needs it; exported are {}",
                    list(&exports)
                ));
            }
        };
        let mut cache = Default::default();
        SubtypeChecker::new(&mut cache)
            .is_subtype(export_type, types, import_type, types)
            .with_context(|| format!("the types of export {export} and import {import} differ"))?;
        let argument = self.0.alias_instance_export(provider.node, export)?;
        self.0
            .set_instantiation_argument(user.node, import, argument)?;
        Ok(())
    }

    fn export(&mut self, instance: Instance, name: &str) -> anyhow::Result<()> {
        let node = self.0.alias_instance_export(instance.node, name)?;
        self.0.export(node, name)?;
        Ok(())
    }

    fn export_all(&mut self, instance: Instance) -> anyhow::Result<()> {
        let names: Vec<String> = self.exports(instance).map(str::to_owned).collect();
        names
            .iter()
            .try_for_each(|name| self.export(instance, name))
    }

    fn encode(&self) -> anyhow::Result<Vec<u8>> {
        self.0
            .encode(EncodeOptions::default())
            .context("the composed component is invalid")
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{
        Engine, Store,
        component::{Component, Linker},
    };

    use super::*;

    /// Returns a component that exports `run`, which adds what its imports return.
    fn adder(imports: &[&str]) -> Vec<u8> {
        let join = |part: &dyn Fn(usize, &str) -> String| -> String {
            let parts = imports.iter().enumerate();
            parts.map(|(index, name)| part(index, name)).collect()
        };
        let text = join(&|index, name| {
            format!("(import \"{name}\" (instance $i{index} (export \"get\" (func (result u32)))))")
        });
        let lowered = join(&|index, _| {
            format!("(core func $f{index} (canon lower (func $i{index} \"get\")))")
        });
        let instance =
            join(&|index, _| format!("(import \"\" \"f{index}\" (func $f{index} (result i32)))"));
        let arguments = join(&|index, _| format!("(export \"f{index}\" (func $f{index}))"));
        let sum = join(&|index, _| format!("call $f{index} i32.add "));
        parse(&format!(
            "(component {text} {lowered}
                (core module $m {instance} (func (export \"run\") (result i32) i32.const 0 {sum}))
                (core instance $i (instantiate $m (with \"\" (instance {arguments}))))
                (func (export \"run\") (result u32) (canon lift (core func $i \"run\"))))"
        ))
    }

    /// Returns a component whose exports return a number.
    fn provider(exports: &[&str], number: u32) -> Vec<u8> {
        let exports: String = exports
            .iter()
            .map(|name| format!("(export \"{name}\" (instance $exports))"))
            .collect();
        parse(&format!(
            "(component
                (core module $m (func (export \"get\") (result i32) i32.const {number}))
                (core instance $i (instantiate $m))
                (func $get (result u32) (canon lift (core func $i \"get\")))
                (instance $exports (export \"get\" (func $get)))
                {exports})"
        ))
    }

    fn parse(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    fn name(text: &str) -> DependencyName {
        DependencyName::parse(text).unwrap()
    }

    fn compose(
        imports: &[&str],
        parts: &[(&str, Option<&'static str>, Vec<u8>)],
    ) -> anyhow::Result<Vec<u8>> {
        let names: Vec<_> = parts.iter().map(|(text, ..)| name(text)).collect();
        let parts = names
            .iter()
            .zip(parts)
            .map(|(name, (_, export, wasm))| LoadedDependency {
                name,
                export: *export,
                wasm: wasm.clone(),
            });
        dependencies("app.wasm", adder(imports), parts.collect())
    }

    fn run(wasm: &[u8]) -> u32 {
        let engine = Engine::default();
        let component = Component::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let linker = Linker::new(&engine);
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance
            .get_typed_func::<(), (u32,)>(&mut store, "run")
            .unwrap();
        run.call(&mut store, ()).unwrap().0
    }

    #[track_caller]
    fn assert_error(result: anyhow::Result<Vec<u8>>, fragments: &[&str]) {
        let error = format!("{:#}", result.unwrap_err());
        for fragment in fragments {
            assert!(error.contains(fragment), "{fragment:?} in {error}");
        }
    }

    #[test]
    fn a_dependency_provides_imports() {
        let imports = ["a:b/c@1.0.0", "a:b/d@1.0.0", "e:f/g@0.1.0", "h"];
        let wasm = compose(
            &imports,
            &[
                ("a:b", None, provider(&["a:b/c@1.0.0", "a:b/d@1.0.0"], 1)),
                (
                    "e:f/g@0.1.0",
                    Some("other:name/x"),
                    provider(&["other:name/x"], 10),
                ),
                ("h", None, provider(&["h"], 100)),
            ],
        );
        assert_eq!(run(&wasm.unwrap()), 112);
    }

    #[test]
    fn one_file_can_be_several_dependencies() {
        let file = provider(&["a:b/c", "a:b/d"], 4);
        let parts = [("a:b/c", None, file.clone()), ("a:b/d", None, file)];
        assert_eq!(run(&compose(&["a:b/c", "a:b/d"], &parts).unwrap()), 8);
    }

    #[test]
    fn other_imports_are_kept() {
        let wasm = compose(
            &["a:b/c", "k:l/m"],
            &[("a:b/c", None, provider(&["a:b/c"], 1))],
        );
        let engine = Engine::default();
        let component = Component::new(&engine, wasm.unwrap()).unwrap();
        let component_type = component.component_type();
        let imports: Vec<_> = component_type
            .imports(&engine)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(imports, ["k:l/m"]);
    }

    #[test]
    fn dependencies_that_do_not_fit_are_errors() {
        assert_error(
            compose(&["a:b/c"], &[("a:x", None, provider(&["a:x/c"], 1))]),
            &["\"a:x\" matches no import", "which imports a:b/c"],
        );
        assert_error(
            compose(&["a:b/c"], &[("a:b", None, provider(&["a:b/d"], 1))]),
            &[
                "\"a:b\" does not fit",
                "a:b/c is not exported",
                "exported are a:b/d",
            ],
        );
        assert_error(
            compose(&["a:b/c"], &[("a:b/c", Some("x"), provider(&["a:b/c"], 1))]),
            &["x is not exported, and a:b/c needs it"],
        );
        let wrong = "(component (instance $i) (export \"a:b/c\" (instance $i)))";
        assert_error(
            compose(&["a:b/c"], &[("a:b/c", None, parse(wrong))]),
            &["the types of export a:b/c and import a:b/c differ"],
        );
        assert_error(
            compose(
                &["a:b/c@1.0.0"],
                &[
                    ("a:b@1.0.0", None, provider(&["a:b/c@1.0.0"], 1)),
                    ("a:b/c@1.0.0", None, provider(&["a:b/c@1.0.0"], 1)),
                ],
            ),
            &["\"a:b@1.0.0\" and \"a:b/c@1.0.0\" both provide a:b/c@1.0.0"],
        );
        assert_error(
            compose(&["a:b/c"], &[("a:b/c", None, b"junk".to_vec())]),
            &["\"a:b/c\" is not a valid component"],
        );
        assert_error(
            dependencies("app.wasm", b"junk".to_vec(), Vec::new()),
            &["app.wasm is not a valid component"],
        );
    }

    #[test]
    fn middleware_needs_a_handler() {
        let handler = |number| provider(&[HANDLER], number);
        assert_error(
            middleware("app.wasm", provider(&["a:b/c"], 1), Vec::new()),
            &["wasi:http/handler@0.3.0, and it exports a:b/c"],
        );
        assert_error(
            middleware(
                "app.wasm",
                handler(1),
                vec![("log.wasm".to_owned(), handler(1))],
            ),
            &[
                "log.wasm does not fit",
                "does not import wasi:http/handler@0.3.0",
            ],
        );
    }
}
