//! Max-min fair shares in whole numbers. What does not divide goes round with the clock, so that nobody is left out for good.

/// How long what is left over stays with the same ones, in seconds: where they would have nothing without it, and otherwise.
const TURN_OF_LAST: u64 = 5;
const TURN: u64 = 60;
/// The more there are the less often they look, and within a turn one is to see that it is over, and another that there is room.
const MEMBERS_PER_SECOND: u64 = 15;
const LONGEST_TURN_OF_LAST: u64 = 20;

/// The golden ratio, as a part of 2^64. By that much of the way round each turn begins after the one before: wherever one stands, it
/// comes by evenly. It does not depend on what is left over: who has read a stranger more would mean others altogether.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Shares of `capacity`: nobody has more than it wants, and nobody could have more but from somebody who has no more than
/// one more. The same for everybody who computes it with the same numbers within the same turn of `clock` (seconds).
pub(crate) fn max_min(wanted: &[u32], capacity: u32, clock: u64) -> Vec<u32> {
    let total: u64 = wanted.iter().map(|&w| u64::from(w)).sum();
    if total <= u64::from(capacity) {
        return wanted.to_vec();
    }
    // The highest level to which all can be served.
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    let (mut left, mut level) = (capacity, 0);
    for (i, &want) in sorted.iter().enumerate() {
        let others = u32::try_from(sorted.len() - i).unwrap_or(u32::MAX);
        let step = want - level;
        if u64::from(step) * u64::from(others) > u64::from(left) {
            level += left / others;
            left %= others;
            break;
        }
        left -= step * others;
        level = want;
    }
    let mut shares: Vec<_> = wanted.iter().map(|&want| want.min(level)).collect();
    let more: Vec<_> = (0..wanted.len()).filter(|&i| wanted[i] > level).collect();
    if more.is_empty() {
        return shares;
    }
    let last = (wanted.len() as u64 / MEMBERS_PER_SECOND).clamp(TURN_OF_LAST, LONGEST_TURN_OF_LAST);
    let turn = clock / if level == 0 { last } else { TURN };
    let first = (u128::from(turn.wrapping_mul(GOLDEN)) * more.len() as u128) >> 64;
    for &i in more.iter().cycle().skip(first as usize).take(left as usize) {
        shares[i] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_shares_and_the_rest_goes_round() {
        assert_eq!(max_min(&[2, 9, 1], 20, 0), [2, 9, 1]);
        assert_eq!(max_min(&[2, 9, 9], 10, 0), [2, 4, 4]);
        let turns: Vec<_> = (0..4).map(|turn| max_min(&[5, 5, 5], 2, turn * TURN_OF_LAST)).collect();
        assert_eq!(turns, [[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1]]);
        assert_eq!(max_min(&[5, 5, 5], 0, 3), [0, 0, 0]);
        assert_eq!(max_min(&[], 3, 3), [] as [u32; 0]);
    }

    /// Members that read at different times see strangers come and go; they are to agree on whose turn it is.
    #[test]
    fn whose_turn_it_is_hardly_depends_on_how_much_is_left() {
        for clock in (1_000_000..1_010_000).step_by(20) {
            let [some, more] = [70, 71].map(|capacity| max_min(&[2; 300], capacity, clock));
            assert_eq!(some.iter().zip(&more).filter(|(some, more)| some != more).count(), 1);
        }
    }

    /// At worst 2.62 times as long as if all came in order.
    #[test]
    fn everybody_has_its_turn_before_long() {
        for capacity in [1_u64, 7, 50, 77, 150, 299] {
            let mut waits = [0; 300];
            for turn in 0..5_000 {
                for (wait, share) in waits.iter_mut().zip(max_min(&[2; 300], capacity as u32, turn * 20)) {
                    *wait = if share > 0 { 0 } else { *wait + 1 };
                    assert!(*wait <= 300 * 8 / (3 * capacity) + 1, "{wait} turns with {capacity}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn all_is_given_and_nobody_has_much_more_than_who_lacks(
            wanted in prop::collection::vec(0_u32..20, 0..9),
            capacity in 0_u32..80,
            clock in 0_u64..1_000,
        ) {
            let shares = max_min(&wanted, capacity, clock);
            let total: u32 = wanted.iter().sum();
            prop_assert_eq!(shares.iter().sum::<u32>(), total.min(capacity));
            for (share, want) in shares.iter().zip(&wanted) {
                prop_assert!(share <= want);
                prop_assert!(share == want || shares.iter().all(|other| *other <= share + 1));
            }
        }
    }
}
