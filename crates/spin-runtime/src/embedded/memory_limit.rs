//! The memory of an instance.

use wasmtime::{Error, ResourceLimiter, Result, StoreLimits, StoreLimitsBuilder};

/// The elements of a table. The instance pool has the same limit.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Bounds the memory of an instance, and records whether it asked for more.
pub(crate) struct MemoryLimit {
    limits: StoreLimits,
    was_exceeded: bool,
}

impl MemoryLimit {
    /// Creates a limit for each memory of an instance.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            limits: StoreLimitsBuilder::new()
                .memory_size(max_bytes)
                .table_elements(MAX_TABLE_ELEMENTS)
                .build(),
            was_exceeded: false,
        }
    }

    /// Returns whether the instance was denied memory.
    pub(crate) fn was_exceeded(&self) -> bool {
        self.was_exceeded
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let may_grow = self.limits.memory_growing(current, desired, maximum)?;
        self.was_exceeded |= !may_grow;
        Ok(may_grow)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        self.was_exceeded = true;
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}
