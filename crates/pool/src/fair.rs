//! Fair shares: what each pool should have where all together ask for more than there is.
//!
//! Weighted max-min fairness by progressive filling (Bertsekas and Gallager, Data Networks, 6.5.2): all shares rise
//! together, each in proportion to its weight; one stops when it has what it needs, or when a limit over several pools
//! is used up; the others go on. So no share could be larger without one that is smaller, by weight, getting less.
//! Minimums are filled the same way before anything else. Shares are real numbers: who gets the whole server of which
//! several have a part is the broker's to say.

/// Steps of the search for a level: a share of a million is found to far under a millionth.
const STEPS: u32 = 64;

/// What one pool asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Servers it could use.
    pub need: u32,
    /// Servers it gets before anybody gets more, if it needs them.
    pub minimum: u32,
    /// How much it gets in proportion to others; 0 is taken for 1.
    pub weight: u32,
    /// The limits it is under, as indices.
    pub caps: Vec<usize>,
}

/// The fair share of each claim, in servers. `caps` are the limits: the shares of all claims under one add up to no more
/// than that.
pub fn shares(claims: &[Claim], caps: &[u32]) -> Vec<f64> {
    let nothing = vec![0.0; claims.len()];
    let minimums: Vec<f64> = claims.iter().map(|c| f64::from(c.minimum.min(c.need))).collect();
    let needs: Vec<f64> = claims.iter().map(|c| f64::from(c.need)).collect();
    let filling = Filling::new(claims, caps);
    let minimums = filling.fill(&nothing, &minimums);
    filling.fill(&minimums, &needs)
}

struct Filling<'a> {
    claims: &'a [Claim],
    caps: &'a [u32],
    /// The claims under each limit.
    members: Vec<Vec<usize>>,
}

impl<'a> Filling<'a> {
    fn new(claims: &'a [Claim], caps: &'a [u32]) -> Self {
        let mut members = vec![Vec::new(); caps.len()];
        for (index, claim) in claims.iter().enumerate() {
            claim.caps.iter().for_each(|&cap| members[cap].push(index));
        }
        Self { claims, caps, members }
    }

    /// Raises the shares from `floor` to `ceiling`, as far as the limits allow.
    fn fill(&self, floor: &[f64], ceiling: &[f64]) -> Vec<f64> {
        let mut fixed: Vec<Option<f64>> = vec![None; self.claims.len()];
        let mut open: Vec<usize> = (0..self.caps.len()).collect();
        loop {
            open.retain(|&cap| self.members[cap].iter().any(|&i| fixed[i].is_none()));
            let levels = open.iter().filter_map(|&cap| Some((self.level(cap, &fixed, floor, ceiling)?, cap)));
            let Some((level, cap)) = levels.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            for &i in &self.members[cap] {
                fixed[i] = fixed[i].or(Some(self.at(i, level, floor, ceiling)));
            }
        }
        fixed.iter().zip(ceiling).map(|(share, &all)| share.unwrap_or(all)).collect()
    }

    /// How high the shares under a limit can rise before it is used up; `None` if they can all have what they want.
    fn level(&self, cap: usize, fixed: &[Option<f64>], floor: &[f64], ceiling: &[f64]) -> Option<f64> {
        let sum = |level: f64| -> f64 {
            let share = |&i: &usize| fixed[i].unwrap_or_else(|| self.at(i, level, floor, ceiling));
            self.members[cap].iter().map(share).sum()
        };
        let limit = f64::from(self.caps[cap]);
        let (mut low, mut high) = (0.0, f64::from(u32::MAX));
        if sum(high) <= limit {
            return None;
        }
        for _ in 0..STEPS {
            let middle = (low + high) / 2.0;
            if sum(middle) <= limit { low = middle } else { high = middle }
        }
        Some(low)
    }

    fn at(&self, i: usize, level: f64, floor: &[f64], ceiling: &[f64]) -> f64 {
        (level * f64::from(self.claims[i].weight.max(1))).clamp(floor[i], ceiling[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(need: u32, minimum: u32, weight: u32, caps: &[usize]) -> Claim {
        Claim { need, minimum, weight, caps: caps.to_vec() }
    }

    fn about(shares: &[f64], expected: &[f64]) {
        assert_eq!(shares.len(), expected.len());
        assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{shares:?} is not {expected:?}");
    }

    #[test]
    fn who_needs_less_than_an_equal_share_gets_it_and_the_rest_is_for_the_others() {
        let claims = [claim(2, 0, 1, &[0]), claim(50, 0, 1, &[0]), claim(50, 0, 1, &[0])];
        about(&shares(&claims, &[11]), &[2.0, 4.5, 4.5]);
        about(&shares(&claims, &[500]), &[2.0, 50.0, 50.0]);
        about(&shares(&claims, &[0]), &[0.0, 0.0, 0.0]);
    }

    #[test]
    fn weights_are_proportions_and_minimums_come_first() {
        let claims = [claim(50, 0, 1, &[0]), claim(50, 0, 2, &[0]), claim(50, 0, 3, &[0])];
        about(&shares(&claims, &[12]), &[2.0, 4.0, 6.0]);
        let claims = [claim(50, 5, 1, &[0]), claim(50, 0, 2, &[0]), claim(50, 0, 3, &[0])];
        about(&shares(&claims, &[15]), &[5.0, 4.0, 6.0]);
        about(&shares(&claims, &[4]), &[4.0, 0.0, 0.0]);
        let claims = [claim(1, 5, 1, &[0]), claim(50, 3, 1, &[0])];
        about(&shares(&claims, &[3]), &[1.0, 2.0]);
    }

    #[test]
    fn what_one_limit_withholds_the_others_have() {
        let claims = [claim(50, 0, 1, &[0, 1]), claim(50, 0, 1, &[0, 1]), claim(50, 0, 1, &[0])];
        about(&shares(&claims, &[10, 3]), &[1.5, 1.5, 7.0]);
        about(&shares(&claims, &[10, 9]), &[10.0 / 3.0; 3]);
    }
}
