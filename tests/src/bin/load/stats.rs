//! Statistics: percentiles of samples, and the spread of a figure over several runs.

/// A set of samples. Sorted on demand.
#[derive(Debug, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// Adds a sample.
    pub fn push(&mut self, value: u64) {
        self.0.push(value);
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the percentiles for these fractions (0 to 1), by nearest rank. All are 0 without
    /// samples.
    pub fn percentiles<const N: usize>(&mut self, fractions: [f64; N]) -> [u64; N] {
        self.0.sort_unstable();
        fractions.map(|fraction| {
            let rank = (fraction * self.0.len() as f64).ceil() as usize;
            self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        })
    }
}

/// The minimum, median and maximum of a figure over its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The minimum.
    pub min: f64,
    /// The median; for an even number of values, the mean of the two in the middle.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// Returns the spread of these values, or `None` if there are none.
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
        let mut two = Samples::default();
        two.push(7);
        two.push(3);
        assert_eq!(two.percentiles([0.5, 0.51, 0.99]), [3, 7, 7]);
        assert_eq!(Samples::default().percentiles([0.5]), [0]);
    }

    #[test]
    fn spread_is_minimum_median_and_maximum() {
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
