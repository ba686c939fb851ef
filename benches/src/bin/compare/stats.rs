//! Pairs of measurements and what is said of them: medians, and the spread of the ratios.

/// Measurements taken pairwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paired {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Paired {
    /// Adds a pair.
    pub(crate) fn push(&mut self, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    /// Median of pgsluice's.
    pub(crate) fn ours(&self) -> f64 {
        median(&self.ours)
    }

    /// Median of PgBouncer's.
    pub(crate) fn theirs(&self) -> f64 {
        median(&self.theirs)
    }

    /// Median of the ratios of each pair, and the lowest and highest.
    pub(crate) fn ratio(&self) -> (f64, f64, f64) {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.theirs).map(|(a, b)| a / b).collect();
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (median(&ratios), low, high)
    }
}

/// The middle value, or the mean of the two middle ones; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let mut paired = Paired::default();
        // The machine slows down tenfold in the middle; the ratios do not notice.
        for (ours, theirs) in [(1.0, 2.0), (10.0, 20.0), (12.0, 20.0)] {
            paired.push(ours, theirs);
        }
        assert_eq!(paired.ratio(), (0.5, 0.5, 0.6));
        assert_eq!((paired.ours(), paired.theirs()), (10.0, 20.0));
    }
}
