//! A log-linear histogram of nanoseconds, exact to about 1.6 %. It holds counts only, so that recording costs an
//! addition and histograms of several threads can be summed.

const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB;

/// Counts of values by size.
#[derive(Clone, Debug)]
pub struct Hist {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Hist {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Hist {
    /// Counts one value, in nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.counts[index(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Hist) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value, in microseconds.
    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// The value at quantile `q` (0 to 1), in microseconds; never below the true one, at most 1.6 % above.
    pub fn quantile_us(&self, q: f64) -> f64 {
        let wanted = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(i).min(self.max) as f64 / 1e3;
            }
        }
        self.max_us()
    }
}

/// The bucket of a value.
fn index(v: u64) -> usize {
    if v < SUB as u64 {
        return v as usize;
    }
    let shift = 63 - v.leading_zeros() - SUB_BITS;
    (shift as usize + 1) * SUB + ((v >> shift) as usize - SUB)
}

/// The first value above a bucket, or the bucket's only value.
fn upper(i: usize) -> u64 {
    if i < SUB {
        return i as u64;
    }
    let shift = (i / SUB - 1) as u32;
    let bound = ((i % SUB + SUB + 1) as u128) << shift;
    u64::try_from(bound).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_bound_their_values() {
        for v in [0, 1, 63, 64, 65, 127, 128, 1000, 123_456, 1 << 40, u64::MAX] {
            assert!(upper(index(v)) >= v, "{v}");
            assert!(upper(index(v)) as f64 <= v as f64 * 1.02 + 1.0, "{v}");
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut h = Hist::default();
        (1..=1000).for_each(|i| h.record(i * 1000));
        assert!((h.quantile_us(0.5) - 500.0).abs() < 10.0);
        assert!((h.quantile_us(0.99) - 990.0).abs() < 20.0);
        assert_eq!(h.max_us(), 1000.0);
    }

    #[test]
    fn merging_is_recording_both() {
        let (mut a, mut b) = (Hist::default(), Hist::default());
        a.record(1_000);
        b.record(9_000);
        a.merge(&b);
        assert_eq!((a.total(), a.max_us()), (2, 9.0));
    }
}
