//! Composes a component with the adapter, as `wac plug` does.

use anyhow::{Context as _, Result};
use tests::wasm;
use wac_graph::{CompositionGraph, EncodeOptions, PackageId, plug, types::Package};

/// Returns a component whose imports of Spin's interfaces come from the adapter.
pub fn with_adapter(component: &str) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let adapter = add(&mut graph, "adapter")?;
    let component = add(&mut graph, component)?;
    plug(&mut graph, vec![adapter], component).context("the adapter does not fit")?;
    Ok(graph.encode(EncodeOptions::default())?)
}

fn add(graph: &mut CompositionGraph, name: &str) -> Result<PackageId> {
    let package = Package::from_file(name, None, wasm(name), graph.types_mut())?;
    Ok(graph.register_package(package)?)
}
