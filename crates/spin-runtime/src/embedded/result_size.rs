//! The limit for the size of a result that a guest receives.

/// Counts the memory of a result up to a limit.
pub(crate) struct ResultSize {
    bytes: usize,
    max: usize,
}

/// A result exceeds the limit. The text is that of Spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("query result exceeds limit of {max} bytes")]
pub(crate) struct ResultTooLarge {
    max: usize,
}

impl ResultSize {
    pub(crate) fn new(max: usize) -> Self {
        Self { bytes: 0, max }
    }

    /// Counts a part of the result.
    ///
    /// # Errors
    /// Fails if the result is too large.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), ResultTooLarge> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.max {
            return Err(ResultTooLarge { max: self.max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_result_share_its_limit() {
        let mut size = ResultSize::new(10);
        assert_eq!(size.add(4), Ok(()));
        assert_eq!(size.add(6), Ok(()));
        let error = size.add(1).unwrap_err();
        assert_eq!(error.to_string(), "query result exceeds limit of 10 bytes");
        // The counter does not overflow.
        assert_eq!(size.add(usize::MAX), Err(error));
    }
}
