//! Percentiles of samples, and the spread of a figure over several runs.

/// Values in the order they came; sorted when asked.
#[derive(Debug, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: u64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The least value that at least `share` (0 to 1) of all do not exceed
    /// (nearest rank), for each share asked; 0 when there is no sample.
    pub fn percentiles<const N: usize>(&mut self, shares: [f64; N]) -> [u64; N] {
        self.0.sort_unstable();
        shares.map(|share| {
            let rank = (share * self.0.len() as f64).ceil() as usize;
            self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        })
    }
}

/// Least, middle and greatest of a figure's runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; between the two middle ones when their number is even.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            even if even % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Some(Self {
            min: sorted[0],
            median,
            max: sorted[sorted.len() - 1],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut samples = Samples::default();
        for value in (1..=100).rev() {
            samples.push(value);
        }
        assert_eq!(
            samples.percentiles([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]),
            [1, 50, 90, 99, 100, 100]
        );
        let mut few = Samples::default();
        few.push(7);
        few.push(3);
        assert_eq!(few.percentiles([0.5, 0.51, 0.99]), [3, 7, 7]);
        assert_eq!(Samples::default().percentiles([0.5]), [0]);
    }

    #[test]
    fn a_spread_is_least_middle_and_greatest() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Some(Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            })
        );
        assert_eq!(
            Spread::of(&[4.0, 1.0]),
            Some(Spread {
                min: 1.0,
                median: 2.5,
                max: 4.0
            })
        );
        assert_eq!(Spread::of(&[]), None);
    }
}
