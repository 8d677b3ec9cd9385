//! The limit for the size of a result.

use super::store::StoreError;

/// Counts the memory of a result up to a limit.
pub(super) struct ResultSize {
    bytes: usize,
    max: usize,
}

impl ResultSize {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: 0, max }
    }

    /// Counts a part of the result.
    ///
    /// # Errors
    /// Fails if the result is too large, with the text that Spin uses.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.max {
            let max = self.max;
            return Err(StoreError(format!(
                "query result exceeds limit of {max} bytes"
            )));
        }
        Ok(())
    }

    /// Counts a value and its key, if there is one.
    pub(super) fn add_value(
        &mut self,
        key: &str,
        value: Option<&Vec<u8>>,
    ) -> Result<(), StoreError> {
        self.add(size_of::<(String, Option<Vec<u8>>)>() + key.len() + value.map_or(0, Vec::len))
    }
}
