//! The bus of a host that was built without Redis.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, bail};
use grip::Item;
use spin_runtime::runtime_config::KeyValueStore;

use crate::pubsub::channels::Channels;

/// Cannot exist.
pub(crate) enum Bus {}

/// Why items could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {}

impl Bus {
    pub(crate) fn new(_url: &str, _channels: Channels) -> Result<Arc<Self>> {
        bail!("--bus: this binary was built without the feature `redis`");
    }

    pub(crate) fn check_stores(&self, _stores: &BTreeMap<String, KeyValueStore>) -> Result<()> {
        match *self {}
    }

    pub(crate) async fn check(&self) -> Result<()> {
        match *self {}
    }

    pub(crate) fn is_up(&self) -> bool {
        match *self {}
    }

    pub(crate) async fn publish(&self, _items: &[Item]) -> Result<(), BusError> {
        match *self {}
    }

    pub(crate) async fn begin_run(&self, _timer: &str) -> Option<u64> {
        match *self {}
    }

    pub(crate) async fn release_lease(&self) {
        match *self {}
    }

    pub(crate) async fn run(self: Arc<Self>) {
        match *self {}
    }
}
